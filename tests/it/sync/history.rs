//! Histories of one organization, as its providers would tell them.

use proptest::prelude::*;
use serde_json::{Value, json};
use tenantry::webhook_events::WebhookSource;

use super::driver::TAG;

/// An event; its ids hold the tag.
#[derive(Clone, Debug)]
pub struct Event {
    pub source: WebhookSource,
    pub id: String,
    pub kind: String,
    pub payload: Value,
}

/// What may happen. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub enum Step {
    CreateUser(usize),
    UpdateUser(usize, u8),
    DeleteUser(usize),
    RenameOrganization(u8),
    OtherOrganization,
    DeleteOrganization(usize),
    Join(usize, u8),
    ChangeRole(usize, u8),
    Leave(usize),
    Invite(u8),
    Settle(u8, bool),
    Customer(u8),
    LinkCustomer(usize),
    DeleteCustomer(usize),
    Checkout(usize),
    Subscribe(usize, u8, bool),
    Change(usize, u8, u8, u8),
    Purchase(bool),
    Cancel(usize),
    Invoice(usize, bool),
    Product(u8),
    Price(u8),
    Entitle(usize, u8),
    Noise,
}

pub fn steps() -> impl Strategy<Value = Vec<(u16, Step)>> {
    let step = prop_oneof![
        4 => (0..4usize).prop_map(Step::CreateUser),
        2 => (0..4usize, 0..4u8).prop_map(|(user, what)| Step::UpdateUser(user, what)),
        1 => (0..4usize).prop_map(Step::DeleteUser),
        1 => (0..4u8).prop_map(Step::RenameOrganization),
        1 => Just(Step::OtherOrganization),
        1 => (0..3usize).prop_map(Step::DeleteOrganization),
        5 => (0..4usize, 0..4u8).prop_map(|(user, role)| Step::Join(user, role)),
        3 => (0..4usize, 0..4u8).prop_map(|(user, role)| Step::ChangeRole(user, role)),
        3 => (0..4usize).prop_map(Step::Leave),
        2 => (0..2u8).prop_map(Step::Invite),
        2 => (0..2u8, any::<bool>()).prop_map(|(which, accepted)| Step::Settle(which, accepted)),
        3 => (0..3u8).prop_map(Step::Customer),
        1 => (0..2usize).prop_map(Step::LinkCustomer),
        1 => (0..2usize).prop_map(Step::DeleteCustomer),
        2 => (0..2usize).prop_map(Step::Checkout),
        4 => (0..2usize, 0..6u8, any::<bool>()).prop_map(|(customer, how, named)| Step::Subscribe(customer, how, named)),
        8 => (0..3usize, 0..8u8, 0..6u8, 0..8u8).prop_map(|(s, status, price, seats)| Step::Change(s, status, price, seats)),
        2 => any::<bool>().prop_map(Step::Purchase),
        2 => (0..3usize).prop_map(Step::Cancel),
        1 => (0..3usize, any::<bool>()).prop_map(|(s, paid)| Step::Invoice(s, paid)),
        1 => (0..4u8).prop_map(Step::Product),
        1 => (0..4u8).prop_map(Step::Price),
        1 => (0..2usize, 0..4u8).prop_map(|(customer, which)| Step::Entitle(customer, which)),
        1 => Just(Step::Noise),
    ];
    // Steps of the same millisecond and of the same second are what is hard.
    let after = prop_oneof![2 => Just(0u16), 2 => 1..50u16, 2 => 300..900u16, 3 => 1000..5000u16];
    prop::collection::vec((after, step), 1..45)
}

const ROLES: [&str; 4] = ["org:admin", "org:member", "org:owner", "org:custom"];
const STATUSES: [&str; 8] =
    ["incomplete", "trialing", "active", "past_due", "unpaid", "paused", "incomplete_expired", "active"];

#[derive(Clone)]
struct User {
    exists: bool,
    name: String,
    email: String,
    verified: bool,
    memberships: u32,
    role: Option<&'static str>,
    joined: i64,
}

#[derive(Clone)]
struct Org {
    id: String,
    name: String,
    slug: Option<String>,
    created: i64,
    alive: bool,
}

#[derive(Clone)]
struct Sub {
    id: String,
    customer: usize,
    status: &'static str,
    price: u8,
    seats: u8,
    named: bool,
    old_shape: bool,
    created: i64,
}

struct Teller {
    now: i64,
    events: Vec<Event>,
    users: Vec<User>,
    orgs: Vec<Org>,
    invitations: Vec<(String, u8, bool, i64)>,
    customers: Vec<(String, bool, bool)>,
    subs: Vec<Sub>,
    checkouts: u32,
    invoices: u32,
    /// Objects of Stripe as they were last told.
    told: std::collections::BTreeMap<String, Value>,
}

/// The events of a history, in order.
pub fn events(steps: &[(u16, Step)]) -> Vec<Event> {
    let mut teller = Teller {
        now: 1_760_000_000_000,
        events: Vec::new(),
        users: (0..4)
            .map(|i| User {
                exists: false,
                name: format!("User {i}"),
                email: format!("user{i}.{TAG}@example.com"),
                verified: true,
                memberships: 0,
                role: None,
                joined: 0,
            })
            .collect(),
        orgs: Vec::new(),
        invitations: Vec::new(),
        customers: Vec::new(),
        subs: Vec::new(),
        checkouts: 0,
        invoices: 0,
        told: std::collections::BTreeMap::new(),
    };
    teller.create_organization();
    for (after, step) in steps {
        teller.now += i64::from(*after);
        teller.step(step);
    }
    teller.events
}

impl Teller {
    fn clerk(&mut self, kind: &str, data: &Value) {
        let payload =
            json!({ "object": "event", "type": kind, "timestamp": self.now, "instance_id": "ins_test", "data": data });
        self.tell(WebhookSource::Clerk, "msg", kind, payload);
    }

    fn stripe(&mut self, kind: &str, object: &Value) {
        let id = format!("evt_{TAG}_{:03}", self.events.len());
        let mut payload = json!({ "id": id, "object": "event", "type": kind, "created": self.now / 1000,
            "api_version": "2025-03-31.basil", "livemode": object["livemode"] == true, "data": { "object": object } });
        // An update says what it changed, as Stripe's do.
        let known = object["id"].as_str().and_then(|id| self.told.insert(id.to_owned(), object.clone()));
        if let Some(before) = known.filter(|_| kind.ends_with(".updated")) {
            let changed =
                object.as_object().into_iter().flatten().filter(|(name, value)| before[name.as_str()] != **value);
            let changed: serde_json::Map<String, Value> =
                changed.map(|(name, _)| (name.clone(), before[name.as_str()].clone())).collect();
            payload["data"]["previous_attributes"] = changed.into();
        }
        self.tell(WebhookSource::Stripe, "evt", kind, payload);
    }

    fn tell(&mut self, source: WebhookSource, prefix: &str, kind: &str, payload: Value) {
        let id = format!("{prefix}_{TAG}_{:03}", self.events.len());
        self.events.push(Event { source, id, kind: kind.to_owned(), payload });
    }

    fn create_organization(&mut self) {
        let number = self.orgs.len();
        // The second wants the slug of the first.
        let slug = (number != 2).then(|| format!("acme-{}", TAG.to_lowercase()));
        let id = format!("org_{TAG}{number}");
        self.orgs.push(Org { id, name: format!("Acme {TAG} {number}"), slug, created: self.now, alive: true });
        let data = self.organization(number);
        self.clerk("organization.created", &data);
    }

    fn organization(&self, number: usize) -> Value {
        let org = &self.orgs[number];
        json!({ "id": org.id, "object": "organization", "name": org.name, "slug": org.slug, "created_by": user_id(0),
            "created_at": org.created, "updated_at": self.now })
    }

    fn user(&self, i: usize) -> Value {
        let user = &self.users[i];
        if i == 3 {
            // Somebody who signed up with a telephone, and published nothing until they gave a name.
            let named = (!user.name.starts_with("User")).then(|| user.name.split(' ').next());
            return json!({ "id": user_id(i), "object": "user", "first_name": named.flatten(), "last_name": null, "username": null,
                "primary_email_address_id": null, "email_addresses": [], "banned": user.name.contains('7'),
                "phone_numbers": [{ "id": "idn_p", "phone_number": "+15550100188" }],
                "created_at": self.now, "updated_at": self.now });
        }
        json!({ "id": user_id(i), "object": "user", "first_name": user.name.split(' ').next(), "last_name": format!("{i}"),
            "primary_email_address_id": "idn_1",
            "email_addresses": [{ "id": "idn_1", "email_address": user.email,
                "verification": { "status": if user.verified { "verified" } else { "unverified" } } }],
            "image_url": format!("https://img.example/{}", user.name), "created_at": self.now, "updated_at": self.now })
    }

    fn membership(&self, i: usize) -> Value {
        let user = &self.users[i];
        let nameless = i == 3 && user.name.starts_with("User");
        let identifier = if i == 3 { "+15550100188" } else { &user.email };
        json!({ "id": format!("orgmem_{TAG}_{i}_{}", user.memberships), "object": "organization_membership",
            "role": user.role, "created_at": user.joined, "updated_at": self.now, "organization": self.organization(0),
            "public_user_data": { "user_id": user_id(i), "first_name": user.name.split(' ').next().filter(|_| !nameless), "last_name": null,
                "identifier": identifier, "image_url": null } })
    }

    fn customer(&self, i: usize) -> Value {
        let (id, linked, _) = &self.customers[i];
        let metadata = if *linked { json!({ "organization_id": self.orgs[0].id }) } else { json!({}) };
        json!({ "id": id, "object": "customer", "email": "billing@example.com", "metadata": metadata })
    }

    fn subscription(&self, i: usize) -> Value {
        let sub = &self.subs[i];
        let (starts, ends) = (sub.created / 1000, sub.created / 1000 + 2_592_000);
        let (price, product, key) = match sub.price {
            0 => ("price_mapped".to_owned(), "prod_x".to_owned(), None),
            1 => (format!("price_{TAG}_1"), format!("prod_{TAG}_1"), Some("pro_monthly")),
            2 => (format!("price_{TAG}_2"), format!("prod_{TAG}_2"), Some("starter")),
            n => (format!("price_{TAG}_{n}"), format!("prod_{TAG}_{}", n % 3), None),
        };
        let mut item = json!({ "id": "si_1", "quantity": sub.seats, "price": { "id": price, "product": product,
            "lookup_key": key, "metadata": {}, "recurring": { "usage_type": "licensed" } } });
        let mut object = json!({ "id": sub.id, "object": "subscription", "customer": self.customers[sub.customer].0,
            "status": sub.status, "created": sub.created / 1000, "cancel_at_period_end": sub.seats == 7,
            "pause_collection": if sub.seats == 6 { json!({ "behavior": "void" }) } else { json!(null) },
            "trial_end": if sub.status == "trialing" { json!(ends) } else { json!(null) },
            "metadata": if sub.named { json!({ "organization_id": self.orgs[0].id }) } else { json!({}) } });
        let periods = if sub.old_shape { &mut object } else { &mut item };
        periods["current_period_start"] = json!(starts);
        periods["current_period_end"] = json!(ends);
        let mut items = vec![item];
        if sub.seats % 3 == 2 {
            items.push(json!({ "id": "si_2", "quantity": 40, "price": { "id": format!("price_{TAG}_addon"), "product": "prod_y",
                "lookup_key": "pro_extra_api_keys", "metadata": {}, "recurring": { "usage_type": "licensed" } } }));
        }
        // Sometimes the list comes in part, without what it began with.
        let in_part = sub.seats == 4;
        if in_part {
            items.remove(0);
        }
        object["items"] = json!({ "object": "list", "data": items, "has_more": in_part });
        object["livemode"] = json!(sub.price.is_multiple_of(2));
        object
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::CreateUser(i) if !self.users[i].exists && self.users[i].role.is_none() => {
                self.users[i].exists = true;
                let data = self.user(i);
                self.clerk("user.created", &data);
            }
            Step::UpdateUser(i, what) if self.users[i].exists => {
                match what {
                    0 => self.users[i].name = format!("Name{} x", self.now % 1000),
                    1 => self.users[i].email = format!("new{i}.{TAG}@example.com"),
                    2 => self.users[i].verified = !self.users[i].verified,
                    _ => {}
                }
                let data = self.user(i);
                self.clerk("user.updated", &data);
            }
            Step::DeleteUser(i) if self.users[i].exists => {
                self.users[i].exists = false;
                self.clerk("user.deleted", &json!({ "id": user_id(i), "object": "user", "deleted": true }));
            }
            Step::RenameOrganization(what) if self.orgs[0].alive => {
                match what {
                    0 => self.orgs[0].slug = Some(format!("moved-{}", TAG.to_lowercase())),
                    1 => self.orgs[0].slug = Some(format!("acme-{}", TAG.to_lowercase())),
                    _ => self.orgs[0].name = format!("Renamed {TAG} {}", self.now % 1000),
                }
                let data = self.organization(0);
                self.clerk("organization.updated", &data);
            }
            Step::OtherOrganization if self.orgs.len() < 3 => self.create_organization(),
            Step::DeleteOrganization(i) if self.orgs.get(i).is_some_and(|org| org.alive) => {
                self.orgs[i].alive = false;
                let data = json!({ "id": self.orgs[i].id, "object": "organization", "deleted": true });
                self.clerk("organization.deleted", &data);
            }
            Step::Join(i, role) if self.users[i].role.is_none() && self.orgs[0].alive => {
                self.users[i].memberships += 1;
                self.users[i].role = Some(ROLES[usize::from(role)]);
                self.users[i].joined = self.now;
                let data = self.membership(i);
                self.clerk("organizationMembership.created", &data);
            }
            Step::ChangeRole(i, role) if self.users[i].role.is_some() => {
                self.users[i].role = Some(ROLES[usize::from(role)]);
                let data = self.membership(i);
                self.clerk("organizationMembership.updated", &data);
            }
            Step::Leave(i) if self.users[i].role.is_some() => {
                let data = self.membership(i);
                self.users[i].role = None;
                self.clerk("organizationMembership.deleted", &data);
            }
            Step::Invite(who) => {
                let number = self.invitations.len();
                self.invitations.push((format!("orginv_{TAG}_{number}"), who, true, self.now));
                let data = self.invitation(number, "pending");
                self.clerk("organizationInvitation.created", &data);
            }
            Step::Settle(which, accepted) => {
                let found = self.invitations.iter().position(|(_, who, open, _)| *who == which && *open);
                let Some(number) = found else { return };
                self.invitations[number].2 = false;
                let status = if accepted { "accepted" } else { "revoked" };
                let data = self.invitation(number, status);
                self.clerk(&format!("organizationInvitation.{status}"), &data);
            }
            _ => self.billing_step(step),
        }
    }

    /// What a purchase tells in one second: customer, subscription, invoice, the change that activates it, and the checkout.
    fn purchase(&mut self, named: bool) {
        self.billing_step(&Step::Customer(1));
        let (customer, number) = (self.customers.len() - 1, self.subs.len());
        self.billing_step(&Step::Subscribe(customer, 3, named));
        self.subs[number].price = 1;
        self.billing_step(&Step::Invoice(number, true));
        self.billing_step(&Step::Change(number, 2, 1, 3));
        self.billing_step(&Step::Checkout(customer));
    }

    fn billing_step(&mut self, step: &Step) {
        match *step {
            Step::Customer(how) if self.customers.len() < 2 => {
                self.customers.push((format!("cus_{TAG}_{}", self.customers.len()), how == 0, true));
                let object = self.customer(self.customers.len() - 1);
                self.stripe("customer.created", &object);
            }
            Step::LinkCustomer(i) if i < self.customers.len() => {
                self.customers[i].1 = true;
                let object = self.customer(i);
                self.stripe("customer.updated", &object);
            }
            Step::DeleteCustomer(i) if self.customers.get(i).is_some_and(|customer| customer.2) => {
                self.customers[i].2 = false;
                let object = self.customer(i);
                self.stripe("customer.deleted", &object);
            }
            Step::Checkout(i) if i < self.customers.len() => {
                self.checkouts += 1;
                let subscription = self.subs.iter().rfind(|sub| sub.customer == i).map(|sub| sub.id.clone());
                let object = json!({ "id": format!("cs_{TAG}_{}", self.checkouts), "object": "checkout.session",
                    "customer": self.customers[i].0, "subscription": subscription, "mode": "subscription",
                    "client_reference_id": self.orgs[0].id, "metadata": {} });
                self.stripe("checkout.session.completed", &object);
            }
            Step::Subscribe(customer, how, named) if customer < self.customers.len() && self.subs.len() < 3 => {
                let number = self.subs.len();
                self.subs.push(Sub {
                    id: format!("sub_{TAG}_{number}"),
                    customer,
                    status: STATUSES[usize::from(how) % 3],
                    price: how,
                    seats: how + 1,
                    named,
                    old_shape: how % 2 == 0,
                    created: self.now,
                });
                let object = self.subscription(number);
                self.stripe("customer.subscription.created", &object);
            }
            Step::Change(i, status, price, seats) if i < self.subs.len() && self.subs[i].status != "canceled" => {
                self.subs[i].status = STATUSES[usize::from(status)];
                self.subs[i].price = price;
                self.subs[i].seats = seats;
                let kind = match self.subs[i].status {
                    "paused" => "customer.subscription.paused",
                    _ if seats == 5 => "customer.subscription.resumed",
                    _ => "customer.subscription.updated",
                };
                let object = self.subscription(i);
                self.stripe(kind, &object);
                if self.subs[i].status == "incomplete_expired" {
                    self.subs[i].status = "canceled";
                }
            }
            Step::Purchase(named) if self.customers.len() < 2 && self.subs.len() < 3 => self.purchase(named),
            Step::Cancel(i) if i < self.subs.len() && self.subs[i].status != "canceled" => {
                self.subs[i].status = "canceled";
                let object = self.subscription(i);
                self.stripe("customer.subscription.deleted", &object);
            }
            Step::Invoice(i, paid) if i < self.subs.len() => {
                self.invoices += 1;
                let subscription = paid.then(|| self.subs[i].id.clone());
                let object = json!({ "id": format!("in_{TAG}_{}", self.invoices), "object": "invoice", "amount_due": 100, "amount_paid": 100,
                    "currency": "usd", "customer": self.customers[self.subs[i].customer].0,
                    "parent": { "subscription_details": { "subscription": subscription } } });
                self.stripe(if paid { "invoice.paid" } else { "invoice.payment_failed" }, &object);
            }
            Step::Product(n) => {
                let plan = ["pro", "starter", "enterprise", ""][usize::from(n)];
                let object =
                    json!({ "id": format!("prod_{TAG}_{}", n % 3), "object": "product", "metadata": { "plan": plan } });
                self.stripe("product.updated", &object);
            }
            Step::Price(n) => {
                let object = json!({ "id": format!("price_{TAG}_{n}"), "object": "price", "product": format!("prod_{TAG}_1"),
                    "lookup_key": null, "metadata": if n % 2 == 0 { json!({ "plan": "starter" }) } else { json!({ "seats": "true" }) } });
                self.stripe("price.updated", &object);
            }
            Step::Entitle(i, which) if i < self.customers.len() => {
                let keys: Vec<Value> = ["advanced-analytics", "single-sign-on", "unknown"]
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| usize::from(which) >> bit & 1 == 1)
                    .map(|(_, key)| json!({ "lookup_key": key }))
                    .collect();
                let object = json!({ "object": "entitlements.active_entitlement_summary", "customer": self.customers[i].0,
                    "entitlements": { "data": keys, "has_more": false } });
                self.stripe("entitlements.active_entitlement_summary.updated", &object);
            }
            Step::Noise => {
                self.clerk("session.created", &json!({ "id": "sess_1" }));
                self.stripe("charge.succeeded", &json!({ "id": "ch_1" }));
            }
            _ => {}
        }
    }

    fn invitation(&self, number: usize, status: &str) -> Value {
        let (id, who, _, created) = &self.invitations[number];
        json!({ "id": id, "object": "organization_invitation", "email_address": format!("guest{who}.{TAG}@example.com"),
            "role": "org:member", "status": status, "organization_id": self.orgs[0].id, "created_at": created, "updated_at": self.now })
    }
}

fn user_id(i: usize) -> String {
    format!("user_{TAG}_{i}")
}
