drop table decision_rules;
