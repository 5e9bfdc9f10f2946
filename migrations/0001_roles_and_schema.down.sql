-- The roles stay: they belong to the cluster, and other databases of it may use them. The schema stays too: the ledger of
-- the migrations is in it, and `tenantry migrate down` drops both after the last migration.
drop function tenantry.touch_updated_at();
drop function tenantry.current_user_id();
drop function tenantry.current_org();
revoke usage on schema tenantry from tenantry_app, tenantry_superadmin;
comment on schema tenantry is null;
