-- What the sync must know of rows that it shares with the API.
alter table organization_members add column promoted_from member_role;
comment on column organization_members.promoted_from is 'Set: the sync made this member OWNER because the organization had none; this is the role the source gives. Taken back when the source names an owner.';

alter table invitations add column clerk_invitation_id text check (char_length(clerk_invitation_id) between 1 and 255);
alter table invitations add constraint invitations_clerk_invitation_id_key unique (organization_id, clerk_invitation_id);
comment on column invitations.clerk_invitation_id is 'Id of the invitation at Clerk, who sends and accepts it; null when it was made here.';

comment on column organizations.slug is 'Name in addresses; at most 63 characters so that it can be a host label. A deleted organization keeps its slug until a living one of the identity provider has it.';
