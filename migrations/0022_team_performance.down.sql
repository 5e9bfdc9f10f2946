drop table team_performance;
