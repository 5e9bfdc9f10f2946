drop table escalations;
