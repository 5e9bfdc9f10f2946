-- The roles stay: they belong to the cluster, and other databases of it may use them.
drop function app.touch_updated_at();
drop function app.current_user_id();
drop function app.current_org();
drop schema app;
