//! The two rules of the GraphQL specification that other versions of the engine break: the reason for the exact pin.
//! And what the engine's own HTTP extractor lets through: the reason for ours.

use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema, SimpleObject};

struct Query;

#[derive(SimpleObject)]
struct Leaf {
    name: String,
}

struct Failing;

#[Object]
impl Failing {
    async fn required(&self) -> async_graphql::Result<String> {
        tokio::task::yield_now().await;
        Err("no".into())
    }
    async fn optional(&self) -> Option<String> {
        None
    }
}

#[Object]
impl Query {
    async fn slow(&self) -> i32 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        1
    }
    async fn quick(&self) -> i32 {
        2
    }
    async fn leaf(&self) -> Leaf {
        tokio::task::yield_now().await;
        Leaf { name: "leaf".into() }
    }
    async fn parent(&self) -> Option<Failing> {
        Some(Failing)
    }
    async fn list(&self) -> Vec<Option<Failing>> {
        vec![Some(Failing), Some(Failing)]
    }
}

/// Specification (September 2025) 6.3.2: the entries of the response are in the order of the selection.
#[tokio::test]
async fn engine_keeps_fields_in_the_order_of_the_query() {
    let schema = Schema::new(Query, EmptyMutation, EmptySubscription);
    let response = schema.execute("{ slow leaf { name } b: quick a: slow quick }").await;
    let json = serde_json::to_string(&response.data).expect("JSON");
    assert_eq!(json, r#"{"slow":1,"leaf":{"name":"leaf"},"b":2,"a":1,"quick":2}"#);
}

/// Specification 6.4.4: a non-null field that fails makes its parent null, not absent and not partial.
#[tokio::test]
async fn engine_nulls_the_parent_of_a_failing_required_field() {
    let schema = Schema::new(Query, EmptyMutation, EmptySubscription);
    let response = schema.execute("{ parent { optional required } quick list { required } }").await;
    let json = serde_json::to_string(&response.data).expect("JSON");
    assert_eq!(json, r#"{"parent":null,"quick":2,"list":[null,null]}"#);
    assert_eq!(response.errors.len(), 3);
}

struct Mutation;

#[Object]
impl Mutation {
    async fn change(&self) -> bool {
        true
    }
}

/// The extractor of async-graphql-axum executes a mutation that comes by GET, which any page can make a browser send.
/// Ours answers 405 to the same request (`http_layer`). When this fails, the extractor can be looked at again.
#[tokio::test]
async fn engine_extractor_runs_mutations_over_get() {
    let schema = Schema::new(Query, Mutation, EmptySubscription);
    let router = axum::Router::new().route("/", axum::routing::get_service(async_graphql_axum::GraphQL::new(schema)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let url = format!("http://{address}/?query=mutation%7Bchange%7D");
    let answer = reqwest::get(url).await.expect("an answer").text().await.expect("text");
    server.abort();
    assert_eq!(answer, r#"{"data":{"change":true}}"#);
}
