//! Maps the provider's roles to ours.

use crate::access::MemberRole;

/// What a role at the identity provider is here. Clerk's own are `org:admin` and `org:member`, before 2024 `admin` and
/// `basic_member`; the rest are names that custom roles go by. The prefix `org:` does not matter.
const ROLES: &[(&str, MemberRole)] = &[
    ("owner", MemberRole::Owner),
    ("super_admin", MemberRole::Owner),
    ("admin", MemberRole::Admin),
    ("administrator", MemberRole::Admin),
    ("manager", MemberRole::Admin),
    ("member", MemberRole::Member),
    ("basic_member", MemberRole::Member),
    ("editor", MemberRole::Member),
    ("agent", MemberRole::Member),
    ("support", MemberRole::Member),
    ("viewer", MemberRole::Viewer),
    ("guest", MemberRole::Viewer),
    ("guest_member", MemberRole::Viewer),
    ("read_only", MemberRole::Viewer),
];

/// The role. An unknown one is read-only.
pub(crate) fn role(foreign: &str) -> MemberRole {
    let name = foreign.trim().to_ascii_lowercase().replace('-', "_");
    let name = name.strip_prefix("org:").unwrap_or(&name);
    ROLES.iter().find(|(known, _)| *known == name).map_or(MemberRole::Viewer, |(_, role)| *role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_roles_have_their_place() {
        for (foreign, ours) in [
            ("org:admin", MemberRole::Admin),
            ("admin", MemberRole::Admin),
            ("org:member", MemberRole::Member),
            ("basic_member", MemberRole::Member),
            ("org:owner", MemberRole::Owner),
            ("org:read-only", MemberRole::Viewer),
            ("org:billing_wizard", MemberRole::Viewer),
            ("", MemberRole::Viewer),
        ] {
            assert_eq!(role(foreign), ours, "{foreign}");
        }
    }
}
