drop table agent_configurations;
