alter table invitations drop constraint invitations_clerk_invitation_id_key;
alter table invitations drop column clerk_invitation_id;
alter table organization_members drop column promoted_from;
comment on column organizations.slug is 'Name in addresses; at most 63 characters so that it can be a host label. A deleted organization keeps its slug.';
