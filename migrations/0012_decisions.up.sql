-- Rules that read amounts of money are rules of one currency: no rates exist, and 100 yen are not 100 cents.
alter table tenantry.decision_rules add column currency text check (currency ~ '^[A-Z]{3}$');
comment on column tenantry.decision_rules.currency is 'ISO 4217. The rule matches only requests in it; null: in every currency, and it reads no amount.';
comment on column tenantry.decision_rules.conditions is 'JsonLogic expression over the request (docs/DECISIONS.md), checked when it is written.';

-- What a rule is stays small whoever writes it; the API allows 16 KiB of text.
alter table tenantry.decision_rules add constraint decision_rules_conditions_check check (pg_column_size(conditions) <= 65536);
