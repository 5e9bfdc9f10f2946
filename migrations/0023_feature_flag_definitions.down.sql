drop table feature_flag_definitions;
