//! What an event of Clerk says, without asking the database.

use serde_json::Value;

use super::roles::role;
use crate::sync::facts::{Change, Kind, Stamp};
use crate::sync::payload::{at, clean, email, id, millis, slug, text};

/// What an event says of which objects; the first is what it is about.
pub(crate) type Said = Result<Vec<Change>, &'static str>;

/// Types that have no effect here. The rest are unknown ones.
const RECORDED: &[&str] = &[
    "role.",
    "permission.",
    "organizationDomain.",
    "session.",
    "email.",
    "sms.",
    "waitlistEntry.",
    "organizationRole.",
];

/// Reads an event.
///
/// # Errors
/// Why it has no effect.
pub(crate) fn translate(event_type: &str, event_id: &str, payload: &Value) -> Said {
    let data = &payload["data"];
    let Some((subject, verb)) = event_type.split_once('.') else { return Err("unknown type") };
    let version = millis(&payload["timestamp"])
        .or_else(|| millis(&data["updated_at"]))
        .or_else(|| millis(&data["created_at"]))
        .unwrap_or(0);
    let rank = match verb {
        "created" => 0,
        "updated" => 1,
        "deleted" | "accepted" | "revoked" => 2,
        _ if RECORDED.iter().any(|prefix| event_type.starts_with(prefix)) => return Err("recorded"),
        _ => return Err("unknown type"),
    };
    let stamp = |authority| Stamp(authority, version, rank, event_id.to_owned());
    let deleted = verb == "deleted";
    let subject_id = id(&data["id"]);
    match subject {
        "user" => Ok(vec![user(subject_id.ok_or(NO_ID)?, stamp(1), data, deleted)]),
        "organization" => Ok(vec![organization(subject_id.ok_or(NO_ID)?, stamp(1), data).deleted(deleted)]),
        "organizationMembership" => membership(subject_id, &stamp, data, deleted),
        "organizationInvitation" if matches!(verb, "created" | "accepted" | "revoked") => {
            Ok(vec![invitation(subject_id.ok_or(NO_ID)?, stamp(1), data, verb)])
        }
        _ if RECORDED.iter().any(|prefix| event_type.starts_with(prefix)) => Err("recorded"),
        _ => Err("unknown type"),
    }
}

const NO_ID: &str = "names no object";

fn user(user: String, stamp: Stamp, data: &Value, deleted: bool) -> Change {
    let change = Change::new(Kind::User, user, stamp).deleted(deleted);
    if deleted {
        return change;
    }
    let primary = &data["primary_email_address_id"];
    let addresses = data["email_addresses"].as_array();
    let address = addresses
        .and_then(|list| list.iter().find(|address| !primary.is_null() && address["id"] == *primary).or(list.first()));
    let email = address.and_then(|address| email(&address["email_address"]));
    let verified = address.is_some_and(|address| at(address, &["verification", "status"]) == "verified");
    let name = name_of(data).or_else(|| text(&data["username"], 200)).or_else(|| local_part(email.as_deref()));
    let given = text(&data["first_name"], 100).or_else(|| name.clone());
    let change = change
        .known("name", name)
        .known("first_given_name", given)
        // A list that is there and empty says that there is no address; a missing one says nothing.
        .known("verified", addresses.map(|_| verified && email.is_some()));
    let change = if addresses.is_some() { change.is("email", email) } else { change };
    with_picture(change, data)
}

/// An absent picture says nothing; null says that there is none.
fn with_picture(change: Change, data: &Value) -> Change {
    match data.get("image_url").or_else(|| data.get("profile_image_url")) {
        // Longer addresses than the column takes are of no use cut.
        Some(url) => change.is("avatar_url", text(url, 4096).filter(|url| url.chars().count() <= 2048)),
        None => change,
    }
}

fn name_of(data: &Value) -> Option<String> {
    let parts: Vec<String> =
        ["first_name", "last_name"].into_iter().filter_map(|part| text(&data[part], 100)).collect();
    clean(&parts.join(" "), 200)
}

fn local_part(email: Option<&str>) -> Option<String> {
    clean(email?.split('@').next()?, 200)
}

fn organization(organization: String, stamp: Stamp, data: &Value) -> Change {
    let name = text(&data["name"], 200);
    let own_slug = text(&data["slug"], 400).as_deref().and_then(slug);
    let slug_of_name = name.as_deref().and_then(slug);
    Change::new(Kind::Organization, organization, stamp)
        .known("slug_key", own_slug.map(|slug| slug_key(&slug)))
        // Where Clerk has no slugs, that of the first name: it must not change whenever the name does.
        .known("first_slug", slug_of_name.map(|slug| slug_key(&slug)))
        .known("name", name)
        .known("created_by", id(&data["created_by"]))
        .known("created_at", millis(&data["created_at"]))
}

/// How an organization is found by the slug it is to have.
pub(crate) fn slug_key(slug: &str) -> String {
    format!("slug:{slug}")
}

fn membership(membership: Option<String>, stamp: &dyn Fn(u8) -> Stamp, data: &Value, deleted: bool) -> Said {
    let organization_data = &data["organization"];
    let user_data = &data["public_user_data"];
    let organization_id = id(organization_data).or_else(|| id(&data["organization_id"]));
    let user_id = id(&user_data["user_id"]).or_else(|| id(&data["user_id"]));
    let membership = membership
        .or_else(|| clean(&format!("{}/{}", organization_id.as_ref()?, user_id.as_ref()?), 255))
        .ok_or(NO_ID)?;
    let foreign_role = text(&data["role"], 200);
    let mut said = vec![
        Change::new(Kind::Membership, membership, stamp(1))
            .deleted(deleted)
            .known("user", user_id.clone())
            .known("organization", organization_id.clone())
            .known("role", foreign_role.map(|foreign| role(&foreign).label()))
            .known("created_at", millis(&data["created_at"])),
    ];
    // What is said in passing of the two makes stubs, until their own events come.
    if let Some(organization_id) = organization_id
        && organization_data.is_object()
    {
        said.push(organization(organization_id, stamp(0), organization_data));
    }
    if let Some(user_id) = user_id {
        let address = email(&user_data["identifier"]);
        let name = name_of(user_data)
            .or_else(|| local_part(address.as_deref()))
            .or_else(|| text(&user_data["identifier"], 200));
        let change = Change::new(Kind::User, user_id, stamp(0)).known("name", name).known("email", address);
        said.push(with_picture(change, user_data));
    }
    Ok(said)
}

fn invitation(invitation: String, stamp: Stamp, data: &Value, verb: &str) -> Change {
    let settled = stamp.1;
    Change::new(Kind::Invitation, invitation, stamp)
        .known("organization", id(&data["organization_id"]).or_else(|| id(&data["organization"])))
        .known("email", email(&data["email_address"]))
        .known("role", text(&data["role"], 200).map(|foreign| role(&foreign).label()))
        .known("created_at", millis(&data["created_at"]))
        .known("expires_at", millis(&data["expires_at"]))
        .known("status", Some(verb))
        .known("settled_at", (verb != "created").then(|| millis(&data["updated_at"]).unwrap_or(settled)))
}
