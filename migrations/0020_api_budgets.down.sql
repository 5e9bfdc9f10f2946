drop table tenantry.api_spending;
