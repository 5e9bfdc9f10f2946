drop table sync_objects;
