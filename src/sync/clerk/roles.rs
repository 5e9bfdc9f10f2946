//! Maps the provider's roles to ours.

use std::collections::BTreeMap;

use crate::access::MemberRole;

/// What Clerk's own roles are here: `org:admin` and `org:member`, before 2024 `admin` and `basic_member`; and `org:owner`, which
/// whoever makes it means. All others are named in `CLERK_ROLES`.
const ROLES: &[(&str, MemberRole)] = &[
    ("owner", MemberRole::Owner),
    ("admin", MemberRole::Admin),
    ("member", MemberRole::Member),
    ("basic_member", MemberRole::Member),
];

/// A role as it is compared: without the prefix `org:`, in lower case.
pub(crate) fn key(foreign: &str) -> String {
    let name = foreign.trim().to_ascii_lowercase();
    name.strip_prefix("org:").unwrap_or(&name).to_owned()
}

/// The role; `None` when nobody has said what it is here. Then it is read-only.
pub(crate) fn role(configured: &BTreeMap<String, MemberRole>, foreign: &str) -> Option<MemberRole> {
    let name = key(foreign);
    let own = || ROLES.iter().find(|(known, _)| *known == name).map(|(_, role)| *role);
    configured.get(&name).copied().or_else(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_roles_have_their_place() {
        let configured = BTreeMap::from([
            ("billing_wizard".to_owned(), MemberRole::Admin),
            ("member".to_owned(), MemberRole::Viewer),
        ]);
        for (foreign, by_itself, by_configuration) in [
            ("org:admin", Some(MemberRole::Admin), Some(MemberRole::Admin)),
            ("admin", Some(MemberRole::Admin), Some(MemberRole::Admin)),
            ("org:member", Some(MemberRole::Member), Some(MemberRole::Viewer)),
            ("basic_member", Some(MemberRole::Member), Some(MemberRole::Member)),
            ("org:owner", Some(MemberRole::Owner), Some(MemberRole::Owner)),
            ("ORG:Billing_Wizard", None, Some(MemberRole::Admin)),
            ("org:manager", None, None),
            ("", None, None),
        ] {
            assert_eq!(role(&BTreeMap::new(), foreign), by_itself, "{foreign}");
            assert_eq!(role(&configured, foreign), by_configuration, "{foreign}");
        }
    }
}
