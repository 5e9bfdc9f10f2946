drop table organization_members;
