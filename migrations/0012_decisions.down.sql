alter table tenantry.decision_rules drop constraint decision_rules_conditions_check;
comment on column tenantry.decision_rules.conditions is 'JsonLogic expression over the request.';
alter table tenantry.decision_rules drop column currency;
