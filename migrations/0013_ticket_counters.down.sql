drop table ticket_counters;
