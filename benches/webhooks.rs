//! Webhooks beside their limit: the bare insert of the same rows, by as many clients.
//!
//! `cargo bench --bench webhooks [-- --seconds 10 --senders 64 --events 20000 --samples 200 --organizations 50]`
//!
//! Starts a `PostgreSQL` of its own (fsync on) and the release binary on it, and measures
//! - accepted deliveries per second, and the answer times at half of that rate, beside pgbench with one
//!   `insert … on conflict do nothing` for each delivery;
//! - how fast one and two workers drain a full inbox of changes to organizations, users and subscriptions;
//! - the time from a delivery's start until GraphQL shows its effect, when there is nothing else to do;
//! - the time from the delivery of a ban until the open stream of the person ends.
//!
//! Machines are noisy; the ratio is the figure. Everything stays on this machine, is bounded in time and ends what it
//! started.

mod support;

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tenantry::auth::dev::{DevIssuer, IssueRequest};
use tenantry::clock::Clock;
use tenantry::db::{Db, PoolLimits, migrations};
use tenantry::local_postgres::{self, LocalPostgres};
use tenantry::webhook_events::WebhookSource;
use tenantry::webhooks::signature::{Secret, sign};
use tenantry::{members, seed};

use support::{Anything, DATABASE, Server, cpu_seconds, exchange, pgbench};

/// Signs nothing but this.
const SECRET: &str = "whsec_bm8gc2VjcmV0IGF0IGFsbCwgYnV0IGZvciBiZW5jaGVz";

struct Options {
    seconds: u64,
    senders: usize,
    events: i64,
    samples: usize,
    organizations: u32,
}

fn options() -> Anything<Options> {
    let mut options = Options { seconds: 10, senders: 64, events: 20_000, samples: 200, organizations: 50 };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => options.seconds = value.parse::<u64>()?.clamp(1, 120),
            "--senders" => options.senders = value.parse::<usize>()?.clamp(1, 128),
            "--events" => options.events = value.parse::<i64>()?.clamp(100, 1_000_000),
            "--samples" => options.samples = value.parse::<usize>()?.clamp(10, 10_000),
            "--organizations" => options.organizations = value.parse::<u32>()?.clamp(1, 10_000),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

/// An organization as the events name it.
struct Tenant {
    organization: String,
    slug: String,
    owner: String,
    customer: String,
    subscription: String,
}

struct Bench {
    options: Options,
    postgres: LocalPostgres,
    data_dir: PathBuf,
    clerk: Secret,
    stripe: Secret,
    tenants: Vec<Tenant>,
    token: String,
}

fn main() -> Anything<()> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bench = runtime.block_on(prepare(options))?;
    let Options { seconds, senders, events, .. } = bench.options;
    println!("{senders} senders, {seconds} s each; PostgreSQL {}", bench.postgres.version());

    let raw_before = raw_inserts(&bench, &runtime)?;
    let accepted = {
        runtime.block_on(clear(&bench))?;
        let server = bench.serve(&["--role", "api"])?;
        let full = flood(&bench, &server, None)?;
        let half = flood(&bench, &server, Some(full.per_second / 2.0))?;
        (full, half)
    };
    let stored = runtime.block_on(count(&bench, "true"))?;
    let raw_after = raw_inserts(&bench, &runtime)?;
    let (raw, (full, half)) = (f64::midpoint(raw_before, raw_after), accepted);
    if u64::try_from(stored)? != full.answers + half.answers {
        return Err(
            format!("{} deliveries were accepted, {stored} events are stored", full.answers + half.answers).into()
        );
    }
    println!("| what | per s | ratio | p50 ms | p99 ms | server CPU µs each |\n|---|---|---|---|---|---|");
    println!("| bare insert, pgbench | {raw:.0} ({raw_before:.0}, {raw_after:.0}) | 100 % | | | |");
    for (name, flood) in [("accepted deliveries", &full), ("the same at half the rate", &half)] {
        println!(
            "| {name} | {:.0} | {:.0} % | {:.2} | {:.2} | {:.0} |",
            flood.per_second,
            100.0 * flood.per_second / raw,
            at(&flood.millis, 50),
            at(&flood.millis, 99),
            flood.cpu_micros
        );
    }

    println!("\n| workers | events | applied | ignored | dead or failed | drained per s |\n|---|---|---|---|---|---|");
    // Each time of changes that are newer than all before.
    let mut newest = Clock::System.now().timestamp();
    for workers in ["1", "2"] {
        newest = runtime.block_on(fill(&bench, newest))?;
        let server = bench.serve(&["--role", "worker", "--workers", workers])?;
        let drained = runtime.block_on(drained(&bench, events))?;
        drop(server);
        println!("| {workers} | {events} | {drained} |");
    }

    runtime.block_on(clear(&bench))?;
    let server = bench.serve(&[])?;
    let visible = visible(&bench, &server, newest + 1)?;
    println!("\n| from delivery to GraphQL, idle | p50 ms | p99 ms |\n|---|---|---|");
    println!("| {} samples | {:.2} | {:.2} |", visible.len(), at(&visible, 50), at(&visible, 99));
    let ended = ended(&bench, &server, newest + 1_000_000)?;
    println!("\n| from the delivery of a ban to the end of a stream | p50 ms | p99 ms |\n|---|---|---|");
    println!("| {} samples | {:.2} | {:.2} |", ended.len(), at(&ended, 50), at(&ended, 99));
    Ok(())
}

/// The value below which this share of the sorted values lies.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or(f64::NAN)
}

impl Bench {
    fn serve(&self, arguments: &[&str]) -> Anything<Server> {
        let secrets = [("CLERK_WEBHOOK_SECRETS", SECRET), ("STRIPE_WEBHOOK_SECRETS", SECRET)];
        Server::start(&self.postgres, &self.data_dir, arguments, &secrets)
    }

    async fn admin(&self) -> Anything<PgConnection> {
        Ok(self.postgres.connect_options(local_postgres::SUPERUSER, DATABASE).connect().await?)
    }

    /// A delivery as bytes, signed now.
    fn request(&self, source: WebhookSource, id: &str, body: &str) -> Vec<u8> {
        let (path, secret) = match source {
            WebhookSource::Clerk => ("clerk", &self.clerk),
            WebhookSource::Stripe => ("stripe", &self.stripe),
        };
        let mut head =
            format!("POST /webhooks/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        for (name, value) in sign(source, secret, id, Clock::System.now(), body.as_bytes()) {
            head += &format!("{name}: {value}\r\n");
        }
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

async fn prepare(options: Options) -> Anything<Bench> {
    let data_dir =
        local_postgres::reachable_data_dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-webhooks"));
    let postgres = LocalPostgres::start(local_postgres::Options { data_dir: data_dir.clone(), durable: true }).await?;
    let mut maintenance = postgres.connect_options(local_postgres::SUPERUSER, "postgres").connect().await?;
    // What an earlier run made newer than now would leave nothing to be done.
    let drop = format!("drop database if exists {DATABASE} with (force)");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut maintenance).await?;
    postgres.ensure_database(DATABASE).await?;
    migrations::up(&postgres.connect_options(local_postgres::OWNER_ROLE, DATABASE)).await?;
    let app = postgres.connect_options(local_postgres::APP_ROLE, DATABASE);
    let superadmin = postgres.connect_options(local_postgres::SUPERADMIN_ROLE, DATABASE);
    let db = Db::new(app, superadmin, PoolLimits::default());
    seed::sample_data(&db, &Clock::System).await?;
    let mut admin = postgres.connect_options(local_postgres::SUPERUSER, DATABASE).connect().await?;
    let scale = seed::Scale { organizations: options.organizations, tickets: 10 };
    seed::scale(&db, &Clock::System, scale, |_| ()).await?;
    sqlx::raw_sql("vacuum analyze").execute(&mut admin).await?;
    let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(
        "select o.clerk_org_id, o.slug, u.clerk_id, s.stripe_customer_id, s.stripe_subscription_id
           from tenantry.organizations o join tenantry.subscriptions s on s.organization_id = o.id
           join tenantry.organization_members m on m.organization_id = o.id and m.role = 'OWNER' join tenantry.users u on u.id = m.user_id
          where o.slug like 'scale-%' order by 2 limit $1",
    )
    .bind(i64::from(options.organizations))
    .fetch_all(&mut admin)
    .await?;
    let tenants: Vec<Tenant> = rows
        .into_iter()
        .map(|(organization, slug, owner, customer, subscription)| Tenant {
            organization,
            slug,
            owner,
            customer,
            subscription,
        })
        .collect();
    let first = tenants.first().ok_or("no organizations")?;
    let viewer = members::viewer(&db, first.owner.as_str()).await?.ok_or("no viewer")?;
    let membership = viewer.memberships.iter().find(|m| m.organization.slug == first.slug).ok_or("no membership")?;
    let token = DevIssuer::open(&data_dir)?.issue(&IssueRequest {
        subject: first.owner.clone(),
        impersonator: None,
        organization: Some(membership.organization.token_claim()),
        ttl: Some(chrono::Duration::hours(24)),
        now: Clock::System.now(),
    })?;
    db.close().await;
    let [clerk, stripe] = [WebhookSource::Clerk, WebhookSource::Stripe].map(|source| Secret::parse(source, SECRET));
    Ok(Bench { options, postgres, data_dir, clerk: clerk?, stripe: stripe?, tenants, token })
}

/// An empty inbox, and nothing left to be written for what was measured before.
async fn clear(bench: &Bench) -> Anything<()> {
    let mut admin = bench.admin().await?;
    for statement in ["truncate tenantry.webhook_events", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut admin).await?;
    }
    Ok(())
}

async fn count(bench: &Bench, condition: &str) -> Anything<i64> {
    let sql = format!("select count(*) from tenantry.webhook_events where {condition}");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut bench.admin().await?).await?)
}

/// An event of Clerk about an organization, of the size of a real one.
fn organization_updated(tenant: &Tenant, name: &str, millis: i64) -> String {
    json!({
        "type": "organization.updated", "object": "event", "timestamp": millis, "instance_id": "ins_bench",
        "event_attributes": { "http_request": { "client_ip": "192.0.2.1", "user_agent": "Mozilla/5.0 (X11; Linux x86_64)" } },
        "data": {
            "id": tenant.organization, "object": "organization", "name": name, "slug": tenant.slug,
            "image_url": "https://img.example.com/organization.png", "has_image": false, "created_by": tenant.owner,
            "members_count": 20, "max_allowed_memberships": 50, "admin_delete_enabled": true,
            "public_metadata": {}, "private_metadata": {}, "created_at": 1_700_000_000_000_i64, "updated_at": millis,
        }
    })
    .to_string()
}

/// An event of Stripe about a subscription, of the size of a real one.
fn subscription_updated(tenant: &Tenant, id: &str, seats: i64, second: i64) -> String {
    let price = json!({ "id": "price_bench", "object": "price", "active": true, "billing_scheme": "per_unit", "currency": "usd",
        "livemode": false, "lookup_key": "pro_monthly_seat", "metadata": {}, "nickname": "Pro, monthly, per seat",
        "product": "prod_bench", "recurring": { "interval": "month", "interval_count": 1, "usage_type": "licensed" },
        "type": "recurring", "unit_amount": 2900, "unit_amount_decimal": "2900" });
    json!({
        "id": id, "object": "event", "api_version": "2025-03-31.basil", "created": second, "livemode": false,
        "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null }, "type": "customer.subscription.updated",
        "data": {
            "object": {
                "id": tenant.subscription, "object": "subscription", "customer": tenant.customer, "status": "active",
                "created": 1_700_000_000, "currency": "usd", "cancel_at_period_end": false, "canceled_at": null,
                "collection_method": "charge_automatically", "latest_invoice": "in_bench", "livemode": false, "metadata": {},
                "automatic_tax": { "enabled": false, "liability": null }, "trial_end": null, "trial_start": null,
                "items": { "object": "list", "has_more": false, "data": [
                    { "id": "si_bench", "object": "subscription_item", "current_period_start": second,
                      "current_period_end": second + 2_592_000, "quantity": seats, "price": price, "metadata": {} }] },
            },
            "previous_attributes": { "items": { "data": [{ "quantity": seats - 1 }] } },
        }
    })
    .to_string()
}

/// One insert a transaction, as the simplest receiver does it: the limit.
fn raw_inserts(bench: &Bench, runtime: &tokio::runtime::Runtime) -> Anything<f64> {
    runtime.block_on(clear(bench))?;
    let body = subscription_updated(&bench.tenants[0], "evt_0", 5, Clock::System.now().timestamp());
    // Prepared once with a fixed body: the server has to send each, pgbench does not.
    // Ids that grow with time, as ours do; random ones cost the index more.
    let script = format!(
        "insert into tenantry.webhook_events (id, source, event_id, event_type, object_id, raw_body, event_created_at, received_at, next_attempt_at)
         values ((lpad(to_hex((extract(epoch from clock_timestamp()) * 1000)::bigint), 12, '0') || substr(md5(random()::text), 1, 20))::uuid,
                 'STRIPE', 'evt_' || md5(random()::text), 'customer.subscription.updated', '{}', '\\x{}', now(), now(), now())
         on conflict (source, event_id) do nothing;\n",
        bench.tenants[0].subscription,
body.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    );
    let file = bench.data_dir.join("insert.sql");
    std::fs::write(&file, script.replace('\n', " "))?;
    let Options { senders, seconds, .. } = bench.options;
    pgbench(&bench.postgres, local_postgres::SUPERADMIN_ROLE, &[file], senders, seconds, "-c jit=off")
}

struct Flood {
    per_second: f64,
    /// Sorted.
    millis: Vec<f64>,
    cpu_micros: f64,
    answers: u64,
}

/// Every sender delivers new events over a connection of its own: as fast as they are accepted, or so many a second
/// altogether. With a rate, an answer's time counts from when the delivery was due, so that waiting is not left out.
fn flood(bench: &Bench, server: &Server, rate: Option<f64>) -> Anything<Flood> {
    let Options { senders, seconds, .. } = bench.options;
    let (answers, millis) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let millis_of_sender = |sender: usize, start: Instant, end: Instant| -> io::Result<Vec<f64>> {
        let stream = TcpStream::connect(server.address)?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::with_capacity(16 * 1024, stream);
        let tenant = &bench.tenants[sender % bench.tenants.len()];
        let interval = rate.map(|rate| Duration::from_secs_f64(f64::from(u32::try_from(senders).unwrap_or(1)) / rate));
        let mut due = start
            + interval.unwrap_or_default() * u32::try_from(sender).unwrap_or(0) / u32::try_from(senders).unwrap_or(1);
        let mut own = Vec::new();
        for number in 0.. {
            if interval.is_some() {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            } else {
                due = Instant::now();
            }
            if Instant::now() >= end {
                break;
            }
            let kind = if rate.is_some() { "half" } else { "full" };
            let id = format!("evt_{kind}_{sender}_{number}");
            let body = subscription_updated(tenant, &id, number, Clock::System.now().timestamp());
            exchange(&mut stream, &bench.request(WebhookSource::Stripe, &id, &body))?;
            answers.fetch_add(1, Ordering::Relaxed);
            own.push(due.elapsed().as_secs_f64() * 1000.0);
            due += interval.unwrap_or_default();
        }
        Ok(own)
    };
    let cpu_before = cpu_seconds(server.child.id());
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    std::thread::scope(|scope| -> Anything<()> {
        let threads: Vec<_> = (0..senders)
            .map(|sender| {
                let (millis, millis_of_sender) = (&millis, &millis_of_sender);
                scope.spawn(move || -> io::Result<()> {
                    let own = millis_of_sender(sender, start, end)?;
                    millis.lock().map_err(|_| io::Error::other("a sender panicked"))?.extend(own);
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| "a sender panicked")??;
        }
        Ok(())
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let answers = answers.load(Ordering::Relaxed);
    let count = f64::from(u32::try_from(answers)?);
    let mut millis = millis.into_inner().map_err(|_| "a sender panicked")?;
    millis.sort_by(f64::total_cmp);
    let cpu_micros = 1e6 * (cpu_seconds(server.child.id()) - cpu_before) / count;
    Ok(Flood { per_second: count / elapsed, millis, cpu_micros, answers })
}

/// An inbox full of changes, half of Clerk and half of Stripe, spread over the organizations, each newer than the one
/// before and all newer than this second; answers the newest.
async fn fill(bench: &Bench, newest: i64) -> Anything<i64> {
    clear(bench).await?;
    let mut admin = bench.admin().await?;
    let events = bench.options.events;
    let tenants = i64::try_from(bench.tenants.len())?;
    let mut numbers = 0..events;
    loop {
        let (mut sources, mut ids, mut types, mut bodies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for number in numbers.by_ref().take(1000) {
            let tenant = &bench.tenants[usize::try_from(number / 2 % tenants)?];
            let at = newest + 1 + number / 2 / tenants;
            let id = format!("evt_{newest}_{number}");
            if number % 2 == 0 {
                bodies.push(organization_updated(tenant, &format!("Name {number}"), at * 1000).into_bytes());
                sources.push("CLERK");
                types.push("organization.updated");
            } else {
                bodies.push(subscription_updated(tenant, &id, number % 90 + 1, at).into_bytes());
                sources.push("STRIPE");
                types.push("customer.subscription.updated");
            }
            ids.push(id);
        }
        if ids.is_empty() {
            break;
        }
        sqlx::query(
            "insert into tenantry.webhook_events (id, source, event_id, event_type, raw_body, received_at, next_attempt_at)
             select gen_random_uuid(), n.source::tenantry.webhook_source, n.id, n.event_type, n.body, now(), clock_timestamp()
               from unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) as n (source, id, event_type, body)",
        )
        .bind(&sources)
        .bind(&ids)
        .bind(&types)
        .bind(&bodies)
        .execute(&mut admin)
        .await?;
    }
    for statement in ["vacuum analyze tenantry.webhook_events", "checkpoint"] {
        sqlx::raw_sql(statement).execute(&mut admin).await?;
    }
    Ok(newest + 1 + events / 2 / tenants)
}

/// Waits until the inbox is drained, and says what became of the events and how many a second there were.
async fn drained(bench: &Bench, events: i64) -> Anything<String> {
    let deadline = Instant::now() + Duration::from_mins(10);
    while count(bench, "status = 'RECEIVED'").await? > 0 {
        if Instant::now() > deadline {
            return Err("the inbox was not drained".into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (seconds, applied, ignored): (f64, i64, i64) = sqlx::query_as(
        "select extract(epoch from max(processed_at) - min(processed_at))::float8,
                count(*) filter (where status = 'APPLIED'), count(*) filter (where status = 'IGNORED') from tenantry.webhook_events",
    )
    .fetch_one(&mut bench.admin().await?)
    .await?;
    let rate = f64::from(i32::try_from(events)?) / seconds;
    Ok(format!("{applied} | {ignored} | {} | {rate:.0}", events - applied - ignored))
}

/// Delivers a new name of an organization, asks for it until it is there, and takes the time; sorted milliseconds.
fn visible(bench: &Bench, server: &Server, newest: i64) -> Anything<Vec<f64>> {
    let samples = bench.options.samples;
    let connect = || -> io::Result<_> {
        let stream = TcpStream::connect(server.address)?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    };
    let (mut sender, mut reader) = (connect()?, connect()?);
    let query = json!({ "query": "{ organization { name } }" }).to_string();
    let query = format!(
        "POST /graphql HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{query}",
        bench.token,
        query.len()
    );
    let begin = newest * 1000;
    let mut millis = Vec::with_capacity(samples);
    for sample in 0..samples {
        let name = format!("Sample {sample} of {begin}");
        let body = organization_updated(&bench.tenants[0], &name, begin + i64::try_from(sample)? * 10);
        let request = bench.request(WebhookSource::Clerk, &format!("msg_{begin}_{sample}"), &body);
        let start = Instant::now();
        exchange(&mut sender, &request)?;
        loop {
            let answer: Value = serde_json::from_slice(&exchange(&mut reader, query.as_bytes())?)?;
            if answer["data"]["organization"]["name"] == name.as_str() {
                break;
            }
            if start.elapsed() > Duration::from_secs(10) {
                return Err(format!("the event had no effect: {answer}").into());
            }
        }
        millis.push(start.elapsed().as_secs_f64() * 1000.0);
        // Idle is what is measured.
        std::thread::sleep(Duration::from_millis(25));
    }
    millis.sort_by(f64::total_cmp);
    Ok(millis)
}

/// Delivers that a person is banned, and takes the time until their stream ends; sorted milliseconds.
fn ended(bench: &Bench, server: &Server, newest: i64) -> Anything<Vec<f64>> {
    let samples = bench.options.samples.min(100);
    let mut sender = BufReader::new(TcpStream::connect(server.address)?);
    let query = json!({ "query": "subscription { ticketChanged { ticket { id } } }" }).to_string();
    let query = format!(
        "POST /graphql HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: text/event-stream\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{query}",
        bench.token,
        query.len()
    );
    let mut millis = Vec::with_capacity(samples);
    for sample in 0..samples {
        let mut stream = TcpStream::connect(server.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(query.as_bytes())?;
        // Until the subscription hears.
        std::thread::sleep(Duration::from_millis(200));
        let mut start = Instant::now();
        for banned in [true, false] {
            let n = i64::try_from(sample)? * 2 + i64::from(!banned);
            let body = json!({ "type": "user.updated", "object": "event", "timestamp": newest * 1000 + n, "instance_id": "ins_bench",
                "data": { "id": bench.tenants[0].owner, "object": "user", "first_name": "Bench", "banned": banned, "locked": false } });
            let request = bench.request(WebhookSource::Clerk, &format!("msg_ban_{newest}_{n}"), &body.to_string());
            if banned {
                start = Instant::now();
            }
            exchange(&mut sender, &request)?;
            if banned {
                let mut heard = String::new();
                stream.read_to_string(&mut heard)?;
                if !heard.contains("ACCOUNT_BLOCKED") {
                    return Err(format!("the stream ended otherwise: {heard}").into());
                }
                millis.push(start.elapsed().as_secs_f64() * 1000.0);
            } else {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    millis.sort_by(f64::total_cmp);
    Ok(millis)
}
