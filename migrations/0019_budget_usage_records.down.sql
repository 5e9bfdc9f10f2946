drop table budget_usage_records;
