//! Throughput of the API beside its limit, the same SQL in the same transactions without GraphQL, and beside a peer.
//!
//! `cargo bench --bench graphql [-- --peers --only Q1,M1,B1 --seconds 6 --rounds 3 --connections 32 --organizations 50 --tickets 1000]`
//! (`--profile dist` measures what is deployed)
//!
//! Starts a `PostgreSQL` of its own (fsync on, kept between runs), fills it, starts the server on it, and measures each
//! operation in one run: over HTTP; by pgbench, pipelined, with the least SQL that reads or changes the same rows in such a
//! transaction (of Q1: the statements that `PostgreSQL` logged while the server answered), over as many sessions as the
//! server has; and with `--peers` over HTTP by `PostGraphile` on the same database (npm installs it under target/). All are
//! warm and take turns; the figures are medians of the rounds. Machines are noisy: the ratios are the figures. The table
//! goes to standard output and, as JSON and as a picture, to target/tmp/bench-graphql.json and .svg.
//!
//! Two more servers can take turns with the first one, each in a row of its own: `--traced` has every trace recorded and sent to
//! a collector that throws it away, and `--beside BINARY` is another build. `TENANTRY_BENCH_SERVER` names another binary to
//! measure in the first place. Everything stays on this machine, is bounded in time and ends what it started.

mod support;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tenantry::auth::dev::{DevIssuer, IssueRequest};
use tenantry::clock::Clock;
use tenantry::db::{Db, PoolLimits, migrations};
use tenantry::id::{BudgetId, TicketId};
use tenantry::local_postgres::{self, LocalPostgres};
use tenantry::{members, seed};

use support::{Anything, DATABASE, Server, cpu_seconds, exchange, exchange_reading, postgres_cpu_seconds};

/// Organizations whose statements are captured; requests are spread over them.
const SAMPLED: usize = 20;

/// The nested query: seven lists and relations on three levels.
const Q1: &str = "query Q1 { organization { id name
  members(first: 20) { nodes { id role user { id name email } } }
  tickets(first: 20) { nodes { id number subject status priority assignee { id user { name } } customer { id name tier } } }
  budgets(first: 3) { nodes { id type limit { amount currencyCode } spent { amount } usageRecords(first: 10) { nodes { id kind amount { amount } } } } }
  featureFlags { key enabled }
  subscription { plan status seatCount currentPeriodEnd } } }";
const Q2: &str =
    "query Q2 { organization { tickets(first: 20) { nodes { id number subject status assignee { id role } } } } }";
const Q3: &str = "query Q3($id: ID!) { node(id: $id) { ... on Ticket { id number subject status priority version } } }";

const M1: &str = "mutation M1($i: TicketUpdateInput!) { ticketUpdate(input: $i) { ticket { id priority version } userErrors { code } } }";
const M2: &str = "mutation M2($i: TicketMessageAddInput!) { ticketMessageAdd(input: $i) { message { id body } userErrors { code } } }";

/// Everybody spends from one budget, whose row is the bottleneck.
const B1: &str = "mutation B1($i: BudgetSpendInput!) { budgetSpend(input: $i) { usageRecords { id amount { amount } } userErrors { code } } }";
/// Stands for an idempotency key that no request had before.
const KEY: &str = "bench-key-000000000000000000000000000000";

/// The same for `PostGraphile`, where it has the same; `%ORG%` is the organization. Flags and subscription are left out of
/// Q1, because they are computed.
const PEER: [(&str, &str); 4] = [
    (
        "Q1",
        r#"query Q1 { organizationByRowId(rowId: "%ORG%") { rowId name
  organizationMembersByOrganizationId(first: 20) { nodes { rowId role userByUserId { rowId name email } } }
  ticketsByOrganizationId(first: 20) { nodes { rowId number subject status priority representativeByOrganizationIdAndAssigneeId { rowId userByUserId { name } } customerProfileByOrganizationIdAndCustomerId { rowId name tier } } }
  budgetsByOrganizationId(first: 3) { nodes { rowId type limitMinor currency spentMinor budgetUsageRecordsByOrganizationIdAndBudgetId(first: 10) { nodes { rowId kind amountMinor } } } } } }"#,
    ),
    (
        "Q2",
        r#"query Q2 { organizationByRowId(rowId: "%ORG%") { ticketsByOrganizationId(first: 20, orderBy: [CREATED_AT_DESC]) { nodes { rowId number subject status representativeByOrganizationIdAndAssigneeId { rowId role } } } } }"#,
    ),
    (
        "Q3",
        "query Q3($o: UUID!, $id: UUID!) { ticketByOrganizationIdAndRowId(organizationId: $o, rowId: $id) { rowId number subject status priority version } }",
    ),
    (
        "M1",
        "mutation M1($o: UUID!, $id: UUID!, $p: TicketPriority!) { updateTicketByOrganizationIdAndRowId(input: { organizationId: $o, rowId: $id, ticketPatch: { priority: $p } }) { ticket { rowId priority version } } }",
    ),
];

struct Options {
    seconds: u64,
    rounds: usize,
    connections: usize,
    organizations: u32,
    tickets: u32,
    peers: bool,
    traced: bool,
    beside: Option<String>,
    only: Vec<String>,
}

impl Options {
    /// Whether this operation is to be measured.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

fn main() -> Anything<()> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let bench = runtime.block_on(prepare(&options))?;
    println!(
        "{} organizations × {} tickets, {} connections, {} rounds of {} s each; PostgreSQL {}",
        options.organizations,
        options.tickets,
        options.connections,
        options.rounds,
        options.seconds,
        bench.postgres.version()
    );
    println!(
        "| | statements, round trips | raw SQL, tx/s | req/s | of raw | p50, p99 ms | p50 at 1 connection | CPU µs, server / PostgreSQL | PostGraphile req/s | ratio | its CPU µs |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut json = Vec::new();
    for operation in &bench.operations {
        let scripts = runtime.block_on(capture(&bench, &operation.ours))?;
        let statements = scripts.first().map_or(0, |script| script.statements);
        let (mut raw, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        let mut others: Vec<Vec<Measured>> = bench.others.iter().map(|_| Vec::new()).collect();
        for (server, request) in
            [(Some(&bench.server), operation.ours.first()), (bench.peer.as_ref(), operation.peer.first())]
        {
            if let (Some(server), Some(request)) = (server, request) {
                is_answered(server, request).map_err(|error| format!("{}: {error}", operation.name))?;
            }
        }
        let turns = bench.others.len() + 3;
        for (round, turn) in (0..options.rounds).flat_map(|round| (0..turns).map(move |turn| (round, turn))) {
            // Who comes after another has to do with what that left: every second round goes backwards.
            let turn = if round % 2 == 0 { turn } else { turns - 1 - turn };
            match turn {
                0 => {
                    let limit = if operation.least.is_empty() { &scripts } else { &operation.least };
                    raw.push(pgbench(&bench, limit, &options)?);
                }
                1 => ours.push(load(&bench, &bench.server, &operation.ours, options.connections, options.seconds)?),
                2 => {
                    if let Some(peer) = bench.peer.as_ref().filter(|_| !operation.peer.is_empty()) {
                        theirs.push(load(&bench, peer, &operation.peer, options.connections, options.seconds)?);
                    }
                }
                turn => {
                    let (_, server) = &bench.others[turn - 3];
                    let measured = load(&bench, server, &operation.ours, options.connections, options.seconds)?;
                    others[turn - 3].push(measured);
                }
            }
        }
        let round_trips = round_trips(&bench, &operation.ours)?;
        let single = load(&bench, &bench.server, &operation.ours, 1, 2)?;
        let of = |measured: &[Measured], what: fn(&Measured) -> f64| median(measured.iter().map(what).collect());
        let (per_second, peer_per_second) = (of(&ours, |m| m.per_second), of(&theirs, |m| m.per_second));
        let raw = median(raw);
        let row = json!({
            "operation": operation.name, "statements": statements, "roundTrips": round_trips, "rawPerSecond": raw, "perSecond": per_second,
            "p50": of(&ours, |m| m.p50), "p99": of(&ours, |m| m.p99), "p50AtOneConnection": single.p50,
            "cpuMicros": of(&ours, |m| m.cpu_micros), "postgresCpuMicros": of(&ours, |m| m.postgres_micros),
            "peerPerSecond": peer_per_second, "peerCpuMicros": of(&theirs, |m| m.cpu_micros),
            "peerPostgresCpuMicros": of(&theirs, |m| m.postgres_micros),
        });
        println!(
            "| {} | {statements}, {round_trips} | {} | {per_second:.0} | {} | {:.2}, {:.2} | {:.2} | {:.0} / {:.0} | {} | {} | {} |",
            operation.name,
            shown(raw, |raw| format!("{raw:.0}")),
            shown(raw, |raw| format!("{:.0} %", 100.0 * per_second / raw)),
            of(&ours, |m| m.p50),
            of(&ours, |m| m.p99),
            single.p50,
            of(&ours, |m| m.cpu_micros),
            of(&ours, |m| m.postgres_micros),
            shown(peer_per_second, |peer| format!("{peer:.0}")),
            shown(peer_per_second, |peer| format!("**{:.2}**", per_second / peer)),
            shown(peer_per_second, |_| format!(
                "{:.0} / {:.0}",
                of(&theirs, |m| m.cpu_micros),
                of(&theirs, |m| m.postgres_micros)
            )),
        );
        json.push(row);
        for ((label, _), measured) in bench.others.iter().zip(&others) {
            println!(
                "| {}, {label} | | | {:.0} | {:.0} % of ours | {:.2}, {:.2} | | {:.0} / {:.0} | | | |",
                operation.name,
                of(measured, |m| m.per_second),
                100.0 * of(measured, |m| m.per_second) / per_second,
                of(measured, |m| m.p50),
                of(measured, |m| m.p99),
                of(measured, |m| m.cpu_micros),
                of(measured, |m| m.postgres_micros),
            );
        }
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(dir.join("bench-graphql.json"), serde_json::to_string_pretty(&json)?)?;
    std::fs::write(dir.join("bench-graphql.svg"), picture(&json))?;
    Ok(())
}

/// Requests per second as bars: the limit, ours and the peer's, each operation on a scale of its own.
fn picture(rows: &[Value]) -> String {
    const WIDTH: f64 = 420.0;
    const KINDS: [(&str, &str, &str); 3] = [
        ("rawPerSecond", "least SQL", "#c9ced6"),
        ("perSecond", "Tenantry", "#2f6fde"),
        ("peerPerSecond", "PostGraphile", "#e0a030"),
    ];
    let mut bars = String::new();
    let mut y = 8.0;
    for row in rows {
        let of = |key: &str| row[key].as_f64().filter(|value| value.is_finite() && *value > 0.0);
        let most = KINDS.iter().filter_map(|(key, ..)| of(key)).fold(1.0, f64::max);
        let name = row["operation"].as_str().unwrap_or_default();
        bars += &format!("<text x=\"8\" y=\"{}\" font-weight=\"bold\">{name}</text>\n", y + 22.0);
        for (key, label, colour) in KINDS {
            let Some(value) = of(key) else { continue };
            let (width, text) = (WIDTH * value / most, y + 11.0);
            bars += &format!(
                "<rect x=\"44\" y=\"{y}\" width=\"{width:.0}\" height=\"14\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{text}\">{label}: {value:.0}</text>\n",
                50.0 + width
            );
            y += 17.0;
        }
        y += 9.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"620\" height=\"{y:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Requests per second</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{bars}</svg>\n"
    )
}

fn shown(value: f64, text: impl Fn(f64) -> String) -> String {
    if value.is_finite() { text(value) } else { "–".to_owned() }
}

/// Round trips to `PostgreSQL` of a warm request, as the server tells in `Server-Timing`.
fn round_trips(bench: &Bench, requests: &[Request]) -> Anything<u32> {
    let request = requests.first().ok_or("no request")?;
    let mut stream = BufReader::new(TcpStream::connect(bench.server.address)?);
    let mut fewest = None;
    // A connection that has not prepared the statements yet takes more.
    for _ in 0..8 {
        exchange_reading(&mut stream, &request.fresh(), |name, value| {
            let told =
                value.split_once("statements in ").and_then(|(_, told)| told.split_whitespace().next()?.parse().ok());
            if name.eq_ignore_ascii_case("server-timing")
                && let Some(told) = told
            {
                fewest = Some(fewest.map_or(told, |fewest: u32| fewest.min(told)));
            }
        })?;
    }
    fewest.ok_or_else(|| "the server does not tell its round trips: it has to run in development".into())
}

/// The middle value; not a number of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn options() -> Anything<Options> {
    let mut options = Options {
        seconds: 6,
        rounds: 3,
        connections: 32,
        organizations: 50,
        tickets: 1000,
        peers: false,
        traced: false,
        beside: None,
        only: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        match name.as_str() {
            "--peers" => {
                options.peers = true;
                continue;
            }
            "--traced" => {
                options.traced = true;
                continue;
            }
            _ => {}
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => options.seconds = value.parse::<u64>()?.clamp(1, 120),
            "--rounds" => options.rounds = value.parse::<usize>()?.clamp(1, 20),
            "--connections" => options.connections = value.parse::<usize>()?.clamp(1, 256),
            "--organizations" => options.organizations = value.parse::<u32>()?.clamp(1, 10_000),
            "--beside" => options.beside = Some(value),
            "--tickets" => options.tickets = value.parse()?,
            "--only" => options.only = value.split(',').map(str::to_owned).collect(),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

struct Bench {
    postgres: LocalPostgres,
    data_dir: PathBuf,
    server: Server,
    peer: Option<Server>,
    /// Others of ours, by what is different about them.
    others: Vec<(&'static str, Server)>,
    operations: Vec<Operation>,
}

/// What is measured: the requests of each server.
struct Operation {
    name: &'static str,
    /// Of what changes rows, the least SQL that does the same: what the server sent holds ids and times that cannot come
    /// twice.
    least: Vec<Script>,
    ours: Vec<Request>,
    peer: Vec<Request>,
}

/// One prepared HTTP request.
struct Request {
    bytes: Vec<u8>,
    /// Where its idempotency key stands.
    key_at: Option<usize>,
}

async fn prepare(options: &Options) -> Anything<Bench> {
    let data_dir = local_postgres::reachable_data_dir(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench"));
    let postgres = LocalPostgres::start(local_postgres::Options { data_dir: data_dir.clone(), durable: true }).await?;
    postgres.ensure_database(DATABASE).await?;
    migrations::up(&postgres.connect_options(local_postgres::OWNER_ROLE, DATABASE)).await?;
    let app = postgres.connect_options(local_postgres::APP_ROLE, DATABASE);
    let superadmin = postgres.connect_options(local_postgres::SUPERADMIN_ROLE, DATABASE);
    let db = Db::new(app, superadmin, PoolLimits::default());
    seed::sample_data(&db, &Clock::System).await?;
    let mut admin = postgres.connect_options(local_postgres::SUPERUSER, DATABASE).connect().await?;
    fill(options, &db, &mut admin).await?;
    sqlx::raw_sql("vacuum analyze").execute(&mut admin).await?;
    for statement in ["alter system set log_line_prefix = '%d|'", "select pg_reload_conf()"] {
        sqlx::raw_sql(statement).execute(&mut admin).await?;
    }

    let issuer = DevIssuer::open(&data_dir)?;
    let slugs: Vec<(String,)> =
        sqlx::query_as("select slug from tenantry.organizations where slug like 'scale-%' order by 1 limit $1")
            .bind(i64::try_from(SAMPLED)?)
            .fetch_all(&mut admin)
            .await?;
    let mut operations: BTreeMap<&'static str, Operation> = BTreeMap::new();
    for (slug,) in slugs {
        let (subject, user, organization): (String, uuid::Uuid, uuid::Uuid) = sqlx::query_as(
            "select u.clerk_id, u.id, o.id from tenantry.users u join tenantry.organization_members m on m.user_id = u.id
               join tenantry.organizations o on o.id = m.organization_id where o.slug = $1 and m.role = 'OWNER' limit 1",
        )
        .bind(&slug)
        .fetch_one(&mut admin)
        .await?;
        let viewer = members::viewer(&db, subject.as_str()).await?.ok_or("no viewer")?;
        let membership = viewer.memberships.iter().find(|m| m.organization.slug == slug).ok_or("no membership")?;
        let claim = Some(membership.organization.token_claim());
        let ttl = Some(chrono::Duration::hours(24));
        let token = issuer.issue(&IssueRequest {
            subject: subject.clone(),
            impersonator: None,
            organization: claim,
            ttl,
            now: Clock::System.now(),
        })?;
        // Open ones, so that messages are taken; many, so that changes of one do not wait for each other.
        let tickets: Vec<uuid::Uuid> = sqlx::query_scalar(
            "select t.id from tenantry.tickets t where t.organization_id = $1 and t.status = 'OPEN' order by t.number limit 40",
        )
        .bind(organization)
        .fetch_all(&mut admin)
        .await?;
        if options.wants("B1") && !operations.contains_key("B1") {
            operations.insert("B1", hot_budget(&mut admin, &token, (&subject, user), (&slug, organization)).await?);
        }
        for (n, ticket) in tickets.into_iter().enumerate() {
            let id = TicketId::from_uuid(ticket).to_string();
            let priority = ["LOW", "NORMAL", "HIGH", "URGENT"][n % 4];
            for (name, query, variables, of_peer) in [
                ("Q1", Q1, json!({}), json!({})),
                ("Q2", Q2, json!({}), json!({})),
                ("Q3", Q3, json!({ "id": id }), json!({ "o": organization, "id": ticket })),
                (
                    "M1",
                    M1,
                    json!({ "i": { "id": id, "priority": priority } }),
                    json!({ "o": organization, "id": ticket, "p": priority }),
                ),
                ("M2", M2, json!({ "i": { "ticketId": id, "body": "Thank you. We look into it." } }), json!({})),
            ] {
                if !options.wants(name) {
                    continue;
                }
                let operation = operations.entry(name).or_insert_with(|| Operation {
                    name,
                    least: Vec::new(),
                    ours: Vec::new(),
                    peer: Vec::new(),
                });
                // pgbench takes 128 at once. As many as it takes, so that its sessions do not wait for each other's rows.
                if operation.least.len() < 128 {
                    operation.least.extend(least(name, &subject, &slug, organization, user, ticket, priority));
                }
                let authorization = format!("Authorization: Bearer {token}\r\n");
                operation.ours.push(Request::new(&authorization, query, &variables));
                if let Some((_, query)) = PEER.iter().find(|(of, _)| *of == name).filter(|_| options.peers) {
                    let headers = format!("x-org: {organization}\r\nx-user: {user}\r\n");
                    let query = query.replace("%ORG%", &organization.to_string());
                    operation.peer.push(Request::new(&headers, &query, &of_peer));
                }
            }
        }
    }
    db.close().await;
    let server = Server::start(&postgres, &data_dir, &[], &[])?;
    let peer = if options.peers { Some(Server::postgraphile(&postgres)?) } else { None };
    let others = others(options, &postgres, &data_dir)?;
    Ok(Bench { postgres, data_dir, server, peer, others, operations: operations.into_values().collect() })
}

/// Makes the organizations that are missing.
async fn fill(options: &Options, db: &Db, admin: &mut PgConnection) -> Anything<()> {
    let known: i64 = sqlx::query_scalar("select count(*) from tenantry.organizations where slug like 'scale-%'")
        .fetch_one(admin)
        .await?;
    let missing = i64::from(options.organizations) - known;
    if let Ok(missing @ 1..) = u32::try_from(missing) {
        println!("making {missing} organizations …");
        seed::scale(db, &Clock::System, seed::Scale { organizations: missing, tickets: options.tickets }, |_| ())
            .await?;
    }
    Ok(())
}

/// The servers beside the first one.
fn others(options: &Options, postgres: &LocalPostgres, data_dir: &Path) -> Anything<Vec<(&'static str, Server)>> {
    let mut others = Vec::new();
    if options.traced {
        let endpoint = format!("http://{}", collector()?);
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_TRACES_SAMPLER", "always_on")];
        others.push(("traced", Server::start(postgres, data_dir, &[], &environment)?));
    }
    if let Some(binary) = &options.beside {
        others.push(("beside", Server::start_binary(Path::new(binary), postgres, data_dir, &[], &[])?));
    }
    Ok(others)
}

/// Takes in traces and throws them away, as long as the process lives.
fn collector() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            std::thread::spawn(move || swallow(stream));
        }
    });
    Ok(address)
}

/// Says yes to whatever comes over a connection.
fn swallow(stream: TcpStream) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(256 * 1024, stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while stream.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        io::copy(&mut (&mut stream).take(length), &mut io::sink())?;
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    }
}

/// One budget of the organization that everybody spends from.
async fn hot_budget(
    admin: &mut PgConnection,
    token: &str,
    (subject, user): (&str, uuid::Uuid),
    (slug, organization): (&str, uuid::Uuid),
) -> Anything<Operation> {
    let budget: uuid::Uuid = sqlx::query_scalar(
        "select series_id from tenantry.budgets where organization_id = $1 and not is_hard_limit limit 1",
    )
    .bind(organization)
    .fetch_one(admin)
    .await?;
    let input = json!({ "budgetIds": [BudgetId::from_uuid(budget).to_string()], "source": "bench", "idempotencyKey": KEY,
                        "amount": { "amount": "0.01", "currencyCode": "USD" } });
    Ok(Operation {
        name: "B1",
        least: least("B1", subject, slug, organization, user, budget, "").into_iter().collect(),
        ours: vec![Request::new(&format!("Authorization: Bearer {token}\r\n"), B1, &json!({ "i": input }))],
        peer: Vec::new(),
    })
}

/// The least SQL over a row (of B1: the budget): the opening, then what reads the rows, or the change and its audit row, in one transaction and one flight.
/// Without the checks that need the row first, and without an event, because nobody listens.
fn least(
    name: &str,
    subject: &str,
    slug: &str,
    organization: uuid::Uuid,
    user: uuid::Uuid,
    ticket: uuid::Uuid,
    priority: &str,
) -> Option<Script> {
    let own = format!("where organization_id = '{organization}' and id = '{ticket}'");
    let change = match name {
        "M1" => format!(
            "update tenantry.tickets set priority = '{priority}', version = version + 1 {own} returning id, priority, version;"
        ),
        "M2" => format!(
            "insert into tenantry.ticket_messages (organization_id, id, ticket_id, author_user_id, body)
               values ('{organization}', gen_random_uuid(), '{ticket}', '{user}', 'Thank you. We look into it.') returning id, body;
             update tenantry.tickets set first_responded_at = coalesce(first_responded_at, now()) {own};"
        ),
        "B1" => format!(
            "update tenantry.budgets set spent_minor = spent_minor + 1 {own} and (not is_hard_limit or spent_minor + reserved_minor + 1 <= limit_minor);
             insert into tenantry.budget_usage_records (organization_id, id, budget_id, amount_minor, currency, kind, source)
               values ('{organization}', gen_random_uuid(), '{ticket}', 1, 'USD', 'SPEND', 'bench');"
        ),
        "Q2" => format!(
            "select t.id, t.number, t.subject, t.status, r.id, r.role from tenantry.tickets t
               left join tenantry.representatives r on r.organization_id = t.organization_id and r.id = t.assignee_id
              where t.organization_id = '{organization}' order by t.created_at desc, t.id desc limit 20;"
        ),
        "Q3" => format!("select id, number, subject, status, priority, version from tenantry.tickets {own};"),
        _ => return None,
    };
    let (begin, end) = if name.starts_with(['M', 'B']) {
        let audit = format!(
            "insert into tenantry.audit_logs (organization_id, id, user_id, action, resource_type, resource_id, metadata, request_id)
               values ('{organization}', gen_random_uuid(), '{user}', 'ticket.update', 'Ticket', '{ticket}', '{{}}', 'bench');
             commit;"
        );
        ("begin;", audit)
    } else {
        ("begin isolation level repeatable read read only;", "rollback;".to_owned())
    };
    let text = format!(
        "\\startpipeline
{begin}
select user_id, organization_id, role::text from tenantry.enter_tenant('{subject}', null, null, null, '{slug}');
{change}
{end}
\\endpipeline
"
    );
    Some(Script { text, statements: 0 })
}

impl Request {
    fn new(headers: &str, query: &str, variables: &Value) -> Self {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let bytes = format!(
            "POST /graphql HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Type: application/json\r\nAccept: application/graphql-response+json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes();
        let key_at = bytes.windows(KEY.len()).position(|part| part == KEY.as_bytes());
        Self { bytes, key_at }
    }

    /// What is sent: each time with a key of its own, if it has one.
    fn fresh(&self) -> Cow<'_, [u8]> {
        let Some(at) = self.key_at else { return Cow::Borrowed(&self.bytes) };
        let mut bytes = self.bytes.clone();
        bytes[at + 8..at + KEY.len()]
            .copy_from_slice(BudgetId::new(&Clock::System).uuid().simple().to_string().as_bytes());
        Cow::Owned(bytes)
    }
}

/// The statements of one request as a pgbench script.
struct Script {
    text: String,
    statements: usize,
}

/// Runs each request once and turns what `PostgreSQL` logged meanwhile into a script.
async fn capture(bench: &Bench, requests: &[Request]) -> Anything<Vec<Script>> {
    let mut admin = bench.postgres.connect_options(local_postgres::SUPERUSER, DATABASE).connect().await?;
    let logging = |value: &str| {
        format!("alter role {} in database {DATABASE} set log_statement = '{value}'", local_postgres::APP_ROLE)
    };
    let reconnect = format!(
        // The peer's connections are its own.
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{}' and application_name like 'tenantry-%'",
        local_postgres::APP_ROLE
    );
    sqlx::raw_sql(AssertSqlSafe(logging("all"))).execute(&mut admin).await?;
    sqlx::raw_sql(AssertSqlSafe(reconnect.as_str())).execute(&mut admin).await?;
    let log = bench.data_dir.join("postgres.log");
    let mut scripts = Vec::new();
    for (index, request) in requests.iter().step_by((requests.len() / SAMPLED).max(1)).enumerate() {
        if index == 0 {
            // What a new connection asks once is not part of the request.
            exchange(&mut BufReader::new(TcpStream::connect(bench.server.address)?), &request.fresh())?;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let from = std::fs::metadata(&log)?.len();
        let response = exchange(&mut BufReader::new(TcpStream::connect(bench.server.address)?), &request.fresh())?;
        let response: Value = serde_json::from_slice(&response)?;
        if response.get("errors").is_some() || response["data"].is_null() {
            return Err(format!("the query failed: {response}").into());
        }
        tokio::time::sleep(Duration::from_millis(60)).await;
        let mut text = String::new();
        let mut file = std::fs::File::open(&log)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
        file.read_to_string(&mut text)?;
        scripts.push(script(&text)?);
    }
    sqlx::raw_sql(AssertSqlSafe(logging("none"))).execute(&mut admin).await?;
    sqlx::raw_sql(AssertSqlSafe(reconnect)).execute(&mut admin).await?;
    Ok(scripts)
}

/// Turns a piece of the server's log into a pgbench script: parameters become literals, the statements between the
/// transaction's begin and end one pipeline.
fn script(log: &str) -> Anything<Script> {
    let prefix = format!("{DATABASE}|");
    let mut entries: Vec<String> = Vec::new();
    for line in log.lines() {
        match line.strip_prefix(&prefix) {
            Some(entry) => entries.push(entry.to_owned()),
            // A statement of several lines goes on.
            None => {
                if let Some(last) = entries.last_mut() {
                    last.push(' ');
                    last.push_str(line.trim());
                }
            }
        }
    }
    let mut statements: Vec<String> = Vec::new();
    for entry in entries {
        if let Some(text) = entry.strip_prefix("LOG:  statement: ") {
            statements.extend(text.split("; ").map(str::to_owned));
        } else if let Some(text) = entry.strip_prefix("LOG:  execute ") {
            statements.push(text.split_once(": ").ok_or("a statement without text")?.1.to_owned());
        } else if let Some(parameters) =
            entry.strip_prefix("DETAIL:  parameters: ").or_else(|| entry.strip_prefix("DETAIL:  Parameters: "))
        {
            let last = statements.last_mut().ok_or("parameters without a statement")?;
            // From the last on, so that $1 is not found in $10.
            let mut values: Vec<(&str, &str)> =
                parameters.split(", $").map(|p| p.split_once(" = ").unwrap_or((p, "null"))).collect();
            values.reverse();
            for (name, value) in values {
                *last = last.replace(&format!("${}", name.trim_start_matches('$')), value);
            }
        }
    }
    let begin =
        statements.iter().position(|statement| statement.starts_with("begin")).ok_or("no transaction in the log")?;
    let end = statements
        .iter()
        .rposition(|statement| statement == "rollback" || statement == "commit")
        .ok_or("the transaction did not end")?;
    let statements = &statements[begin..=end];
    // The opening and the statements are what the server sends one after the other; a pipeline is the least they can cost.
    let mut text = String::from("\\startpipeline\n");
    for statement in statements {
        text.push_str(statement);
        text.push_str(";\n");
    }
    text.push_str("\\endpipeline\n");
    Ok(Script { text, statements: statements.len() })
}

fn pgbench(bench: &Bench, scripts: &[Script], options: &Options) -> Anything<f64> {
    let dir = tempdir(&bench.data_dir)?;
    let mut files = Vec::new();
    for (index, script) in scripts.iter().enumerate() {
        let file = dir.join(format!("{index}.sql"));
        std::fs::write(&file, &script.text)?;
        files.push(file);
    }
    let plan = "-c plan_cache_mode=force_generic_plan -c jit=off -c timezone=UTC";
    let rate = support::pgbench(
        &bench.postgres,
        local_postgres::APP_ROLE,
        &files,
        support::DATABASE_CONNECTIONS,
        options.seconds,
        plan,
    )?;
    std::fs::remove_dir_all(&dir)?;
    Ok(rate)
}

fn tempdir(data_dir: &Path) -> io::Result<PathBuf> {
    let dir = data_dir.join(format!("scripts-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
    cpu_micros: f64,
    postgres_micros: f64,
}

/// Refusing is quick: whoever is measured must do what is asked.
fn is_answered(server: &Server, request: &Request) -> Anything<()> {
    let body = exchange(&mut BufReader::new(TcpStream::connect(server.address)?), &request.fresh())?;
    let answer: Value = serde_json::from_slice(&body)?;
    let data = answer["data"].as_object();
    if answer.get("errors").is_some() || data.is_none_or(|data| data.values().any(Value::is_null)) {
        return Err(format!("the answer has no data: {answer}").into());
    }
    Ok(())
}

/// The requests of the organization that this client belongs to; they stand beside each other.
fn of_one(requests: &[Request], client: usize) -> &[Request] {
    let each = (requests.len() / SAMPLED).max(1);
    let organization = client % (requests.len() / each);
    &requests[organization * each..(organization + 1) * each]
}

/// Sends requests over keep-alive connections from as few threads as do it, and measures.
fn load(bench: &Bench, server: &Server, requests: &[Request], connections: usize, seconds: u64) -> Anything<Measured> {
    let stop = Arc::new(AtomicBool::new(false));
    let counting = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let latencies = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| -> Anything<Measured> {
        let mut workers = Vec::new();
        for worker in 0..connections {
            let (stop, counting, done, latencies) = (&stop, &counting, &done, &latencies);
            workers.push(scope.spawn(move || -> io::Result<()> {
                let stream = TcpStream::connect(server.address)?;
                stream.set_nodelay(true)?;
                let mut stream = BufReader::with_capacity(64 * 1024, stream);
                let mut own = Vec::new();
                // A client is one of an organization, and stays with it: those who went from one to the next would gather where
                // most are, because each organization has its lane.
                let own_requests = of_one(requests, worker);
                let mut next = worker;
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    exchange(&mut stream, &own_requests[next % own_requests.len()].fresh())?;
                    next += 7;
                    if counting.load(Ordering::Relaxed) {
                        own.push(start.elapsed().as_secs_f64() * 1000.0);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
                latencies.lock().map_err(|_| io::Error::other("a worker panicked"))?.extend(own);
                Ok(())
            }));
        }
        std::thread::sleep(Duration::from_secs(2));
        let cpu_before = cpu_seconds(server.child.id());
        let postgres_before = postgres_cpu_seconds(&bench.data_dir)?;
        let start = Instant::now();
        counting.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(seconds));
        counting.store(false, Ordering::Relaxed);
        let elapsed = start.elapsed().as_secs_f64();
        let cpu = cpu_seconds(server.child.id()) - cpu_before;
        let postgres = postgres_cpu_seconds(&bench.data_dir)? - postgres_before;
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().map_err(|_| "a worker panicked")??;
        }
        let mut latencies = latencies.lock().map_err(|_| "a worker panicked")?.clone();
        latencies.sort_by(f64::total_cmp);
        let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or(f64::NAN);
        let done = u32::try_from(done.load(Ordering::Relaxed))?;
        Ok(Measured {
            per_second: f64::from(done) / elapsed,
            p50: at(50),
            p99: at(99),
            cpu_micros: 1e6 * cpu / f64::from(done),
            postgres_micros: 1e6 * postgres / f64::from(done),
        })
    })
}
