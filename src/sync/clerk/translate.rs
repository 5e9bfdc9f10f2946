//! Reads what an event of Clerk says, without the database.

use serde_json::Value;

use crate::sync::mirror::{self, FieldVersion, First, InvitationStatus, Latest, RemoteChange};
use crate::sync::payload::{at, clean, email, id, millis, slug, text, whole};
use crate::webhook_events::event_type::why_no_effect;
use crate::webhook_events::{Effect, EventType, Verb, WebhookSource};

/// What an event says of which objects.
pub(crate) enum Statement {
    /// Of a user.
    User(RemoteChange<mirror::User>),
    /// Of an organization.
    Organization(RemoteChange<mirror::Organization>),
    /// Of a membership.
    Membership(Box<MembershipStatement>),
    /// Of an invitation.
    Invitation(RemoteChange<mirror::Invitation>),
    /// That a session has ended.
    SessionEnded { session: String, user: Option<String> },
}

/// What an event says of a membership, and what it mentions of its organization and its user.
pub(crate) struct MembershipStatement {
    pub(crate) membership: RemoteChange<mirror::Membership>,
    pub(crate) organization: Option<RemoteChange<mirror::Organization>>,
    pub(crate) user: Option<RemoteChange<mirror::User>>,
}

/// Reads an event.
///
/// # Errors
/// Why it has no effect.
pub(crate) fn translate(event_type: &str, event_id: &str, payload: &Value) -> Result<Statement, &'static str> {
    let no_effect = || why_no_effect(WebhookSource::Clerk, event_type);
    let known = EventType::of(WebhookSource::Clerk, event_type).ok_or_else(no_effect)?;
    let data = &payload["data"];
    let moment = millis(&payload["timestamp"])
        .or_else(|| millis(&data["updated_at"]))
        .or_else(|| millis(&data["created_at"]))
        .unwrap_or(0);
    let version =
        |authority, verb: Verb| FieldVersion { authority, moment, rank: verb.rank(), event: event_id.to_owned() };
    let named = || id(&data["id"]).ok_or(NO_ID);
    match known.effect() {
        Effect::User(verb) => Ok(Statement::User(user(named()?, version(1, verb), data, verb == Verb::Deleted))),
        Effect::Organization(verb) => {
            let deleted = verb == Verb::Deleted;
            let change = organization(named()?, version(1, verb), data);
            Ok(Statement::Organization(RemoteChange { deleted, ..change }))
        }
        Effect::Membership(verb) => membership(id(&data["id"]), &|authority| version(authority, verb), data, verb),
        Effect::Invitation(verb) => Ok(Statement::Invitation(invitation(named()?, version(1, verb), data, verb))),
        Effect::SessionEnded => Ok(Statement::SessionEnded { session: named()?, user: id(&data["user_id"]) }),
        // The last ones are Stripe's.
        Effect::Recorded
        | Effect::Customer(_)
        | Effect::Subscription(_)
        | Effect::Checkout
        | Effect::Invoice
        | Effect::Product(_)
        | Effect::Price(_)
        | Effect::Entitlements
        | Effect::Refund
        | Effect::Charge => Err(no_effect()),
    }
}

const NO_ID: &str = "names no object";

fn user(user: String, at_version: FieldVersion, data: &Value, deleted: bool) -> RemoteChange<mirror::User> {
    if deleted {
        return RemoteChange { id: user, at: at_version, deleted, fields: mirror::User::default() };
    }
    let primary = &data["primary_email_address_id"];
    let addresses = data["email_addresses"].as_array();
    let address = addresses
        .and_then(|list| list.iter().find(|address| !primary.is_null() && address["id"] == *primary).or(list.first()));
    let email = address.and_then(|address| email(&address["email_address"]));
    let verified = address.is_some_and(|address| at(address, &["verification", "status"]) == "verified");
    let name = name_of(data).or_else(|| text(&data["username"], 200)).or_else(|| local_part(email.as_deref()));
    let given = text(&data["first_name"], 100).or_else(|| name.clone());
    let fields = mirror::User {
        name: Latest::said(&at_version, name),
        first_given_name: First::said(&at_version, given),
        // An empty list says that there is no address; a missing one says nothing.
        verified: Latest::said(&at_version, addresses.map(|_| verified && email.is_some())),
        email: Latest::said(&at_version, addresses.map(|_| email)),
        avatar_url: picture(&at_version, data),
        blocked_until: blocked_until(&at_version, data),
    };
    RemoteChange { id: user, at: at_version, deleted, fields }
}

/// Until when a person has no access, in milliseconds since 1970: banned without end, locked for the time that Clerk says.
/// An event that mentions neither says nothing of it.
fn blocked_until(at: &FieldVersion, data: &Value) -> Latest<Option<i64>> {
    let (banned, locked) = (data["banned"].as_bool(), data["locked"].as_bool());
    let lock = whole(&data["lockout_expires_in_seconds"]).filter(|seconds| *seconds >= 0);
    let until = match (banned, locked) {
        (None, None) => return Latest::default(),
        (Some(true), _) => Some(i64::MAX),
        (_, Some(true)) => {
            Some(lock.map_or(i64::MAX, |seconds| at.moment.saturating_add(seconds.saturating_mul(1000))))
        }
        _ => None,
    };
    Latest::said(at, Some(until))
}

/// The address of the picture. A missing member says nothing; null says that there is none.
fn picture(at: &FieldVersion, data: &Value) -> Latest<Option<String>> {
    let url = data.get("image_url").or_else(|| data.get("profile_image_url"));
    // An address that the column does not take would be useless if it were cut.
    Latest::said(at, url.map(|url| text(url, 4096).filter(|url| url.chars().count() <= 2048)))
}

fn name_of(data: &Value) -> Option<String> {
    let parts: Vec<String> =
        ["first_name", "last_name"].into_iter().filter_map(|part| text(&data[part], 100)).collect();
    clean(&parts.join(" "), 200)
}

/// The identifier as a name: a user name that the person chose. A telephone number or the address of a wallet is not one:
/// the person did not publish it among colleagues.
fn user_name(identifier: &Value) -> Option<String> {
    let name = text(identifier, 200).filter(|name| !name.contains('@'))?;
    let wallet = name
        .strip_prefix("0x")
        .is_some_and(|rest| rest.len() >= 20 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    (!wallet && name.chars().any(char::is_alphabetic)).then_some(name)
}

fn local_part(email: Option<&str>) -> Option<String> {
    clean(email?.split('@').next()?, 200)
}

fn organization(organization: String, at: FieldVersion, data: &Value) -> RemoteChange<mirror::Organization> {
    let name = text(&data["name"], 200);
    let own_slug = text(&data["slug"], 400).as_deref().and_then(slug);
    let slug_of_name = name.as_deref().and_then(slug);
    let fields = mirror::Organization {
        slug_key: Latest::said(&at, own_slug.map(|slug| slug_key(&slug))),
        // Where slugs are off at Clerk, the first name gives one. It must not change whenever the name does.
        first_slug: First::said(&at, slug_of_name.map(|slug| slug_key(&slug))),
        name: Latest::said(&at, name),
        created_by: Latest::said(&at, id(&data["created_by"])),
        created_at: Latest::said(&at, millis(&data["created_at"])),
    };
    RemoteChange { id: organization, at, deleted: false, fields }
}

/// How an organization is found by the slug it is to have.
pub(crate) fn slug_key(slug: &str) -> String {
    format!("slug:{slug}")
}

fn membership(
    membership: Option<String>,
    version: &dyn Fn(u8) -> FieldVersion,
    data: &Value,
    verb: Verb,
) -> Result<Statement, &'static str> {
    let organization_data = &data["organization"];
    let user_data = &data["public_user_data"];
    let organization_id = id(organization_data).or_else(|| id(&data["organization_id"]));
    let user_id = id(&user_data["user_id"]).or_else(|| id(&data["user_id"]));
    let membership = membership
        .or_else(|| clean(&format!("{}/{}", organization_id.as_ref()?, user_id.as_ref()?), 255))
        .ok_or(NO_ID)?;
    let foreign_role = text(&data["role"], 200);
    let (own, mentioned) = (version(1), version(0));
    let fields = mirror::Membership {
        user: Latest::said(&own, user_id.clone()),
        organization: Latest::said(&own, organization_id.clone()),
        role: Latest::said(&own, foreign_role),
        created_at: Latest::said(&own, millis(&data["created_at"])),
    };
    // What is mentioned of the two makes stubs, until their own events come.
    Ok(Statement::Membership(Box::new(MembershipStatement {
        membership: RemoteChange { id: membership, at: own, deleted: verb == Verb::Deleted, fields },
        organization: organization_id
            .filter(|_| organization_data.is_object())
            .map(|id| organization(id, mentioned.clone(), organization_data)),
        user: user_id.filter(|_| user_data.is_object()).map(|id| mentioned_user(id, mentioned, user_data)),
    })))
}

fn mentioned_user(user: String, at: FieldVersion, data: &Value) -> RemoteChange<mirror::User> {
    let address = email(&data["identifier"]);
    let name = name_of(data).or_else(|| local_part(address.as_deref())).or_else(|| user_name(&data["identifier"]));
    let fields = mirror::User {
        name: Latest::said(&at, name),
        email: Latest::said(&at, address.map(Some)),
        avatar_url: picture(&at, data),
        ..mirror::User::default()
    };
    RemoteChange { id: user, at, deleted: false, fields }
}

fn invitation(invitation: String, at: FieldVersion, data: &Value, verb: Verb) -> RemoteChange<mirror::Invitation> {
    let status = match verb {
        Verb::Created | Verb::Updated => InvitationStatus::Created,
        Verb::Accepted => InvitationStatus::Accepted,
        Verb::Revoked | Verb::Deleted => InvitationStatus::Revoked,
    };
    let settled_at = (status != InvitationStatus::Created).then(|| millis(&data["updated_at"]).unwrap_or(at.moment));
    let fields = mirror::Invitation {
        organization: Latest::said(&at, id(&data["organization_id"]).or_else(|| id(&data["organization"]))),
        email: Latest::said(&at, email(&data["email_address"])),
        role: Latest::said(&at, text(&data["role"], 200)),
        created_at: Latest::said(&at, millis(&data["created_at"])),
        expires_at: Latest::said(&at, millis(&data["expires_at"])),
        status: Latest::said(&at, Some(status)),
        settled_at: Latest::said(&at, settled_at),
    };
    RemoteChange { id: invitation, at, deleted: false, fields }
}
