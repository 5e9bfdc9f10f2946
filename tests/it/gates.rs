//! Gates over the registry ([`ENTITIES`], [`mutations`]) and the SDL: what every table, listing, root field and id must
//! hold, without a list that somebody has to remember. Where a gate needs data (a valid input of a mutation), it says what to
//! add when it is missing.

mod denial;
pub mod inputs;
mod isolation;
mod listings;
mod plans;
mod sdl;
mod selections;
pub mod validation;

use serde_json::Value;
use sqlx::AssertSqlSafe;
use tenantry::access::MemberRole;
use tenantry::auth::TokenOrganization;
use tenantry::id::PREFIXES;
use tenantry::schema::{ENTITIES, EntityInfo};
use uuid::Uuid;

use crate::support::{TestApp, issue};

/// The organization that the gates look from, and the one they must not see. The sample data fills both.
const OWN: &str = "acme-corp";
const FOREIGN: &str = "tech-startup";

fn entity(name: &str) -> &'static EntityInfo {
    ENTITIES.iter().find(|entity| entity.name == name).unwrap_or_else(|| panic!("{name} is no entity"))
}

fn global_id(type_name: &str, uuid: Uuid) -> String {
    let (prefix, _) = PREFIXES.iter().find(|(_, name)| *name == type_name).expect("a type with ids");
    format!("{prefix}_{}", uuid.simple())
}

/// The ids of an organization's rows that meet a condition.
async fn ids(app: &TestApp, entity: &EntityInfo, slug: &str, condition: &str) -> Vec<Uuid> {
    let of = match (entity.tenant, entity.name) {
        (true, _) => "t.organization_id = o.id",
        (false, "Organization") => "t.id = o.id",
        (false, _) => {
            "exists (select from tenantry.organization_members m where m.organization_id = o.id and m.user_id = t.id)
             and not exists (select from tenantry.organization_members m join tenantry.organizations x on x.id = m.organization_id
                              where m.user_id = t.id and x.slug <> $1)
             and not exists (select from tenantry.customer_profiles c join tenantry.organizations x on x.id = c.organization_id
                              where c.user_id = t.id and x.slug <> $1)"
        }
    };
    let sql = format!(
        "select t.id from {} t join tenantry.organizations o on {of} where o.slug = $1 and {condition} order by 1",
        entity.table
    );
    let rows = sqlx::query_scalar(AssertSqlSafe(sql)).bind(slug).fetch_all(&mut app.database.system().await).await;
    rows.unwrap_or_else(|error| panic!("{}: {error}", entity.table))
}

/// Relates rows that the sample data has unrelated, so that every list has something: nobody shows a newcomer merged tickets.
async fn relate(app: &TestApp) {
    let sql = "update tenantry.tickets t set merged_into_id = o.id, split_from_id = o.id from tenantry.tickets o
                where o.organization_id = t.organization_id and t.number = 1 and o.number = 2";
    sqlx::query(sql).execute(&mut app.database.system().await).await.expect("related tickets");
}

/// A token of a member of [`OWN`] with this role, made for the gates.
async fn member(app: &TestApp, role: MemberRole) -> String {
    let subject = format!("user_gate_{}", role.label().to_lowercase());
    let organization = join(app, &subject, OWN, role).await;
    let organization = TokenOrganization { id: organization.to_string(), slug: None };
    issue(subject, Some(organization), chrono::Duration::hours(1), &app.clock)
}

/// Makes a user and a membership.
async fn join(app: &TestApp, subject: &str, slug: &str, role: MemberRole) -> Uuid {
    let mut system = app.database.system().await;
    let organization: Uuid = sqlx::query_scalar("select id from tenantry.organizations where slug = $1")
        .bind(slug)
        .fetch_one(&mut system)
        .await
        .expect("the organization");
    // Their id is behind those of the sample data: requests change the first member of the list, never themselves.
    sqlx::query(
        "with person as (
           insert into tenantry.users (id, clerk_id, name) values (gen_random_uuid(), $1, 'Gate') returning id)
         insert into tenantry.organization_members (id, organization_id, user_id, role)
         select ('ffff' || substr(gen_random_uuid()::text, 5))::uuid, $2, person.id, $3::tenantry.member_role from person",
    )
    .bind(subject)
    .bind(organization)
    .bind(role.label())
    .execute(&mut system)
    .await
    .expect("a member");
    organization
}

/// Every code in an answer, of errors and of `userErrors`.
fn codes(response: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![response];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(code)) = object.get("code") {
                    found.push(code.clone());
                }
                open.extend(object.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    found
}
