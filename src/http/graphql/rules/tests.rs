use async_graphql::parser::parse_query;

use super::super::lexer;
use super::super::limits::{self, Limits};
use super::*;

const SDL: &str = "
    type Query { a(x: Input, n: Int, one: OneOf, ids: [ID!]): Query b(s: String!): Int many(of: IDOfTicket!): [Query] node: Node secret(token: Int): Int }
    input Input { n: Int! m: Int inner: Input word: Word }
    input OneOf @oneOf { n: Int s: String }
    enum Word { HELLO BYE }
    interface Node { id: ID }
    type Ticket implements Node { id: ID subject: String }
    type User implements Node { id: ID name: String }
    directive @ours(n: Int) on FIELD
    directive @theirs on OBJECT
    type Events { happened: Int }
    schema { query: Query subscription: Events }";

/// The codes and messages of what is wrong with a document.
fn found(catalog: &Catalog, text: &str) -> Result<Vec<Vec<IdUse>>, Failure> {
    let text = lexer::check(text, &Limits::default())?;
    let document = parse_query(&*text).map_err(|error| Failure::invalid(error.to_string(), None))?;
    limits::check(&document, catalog, &Limits::default())?;
    check(&document, catalog)
}

fn catalog() -> Catalog {
    Catalog::read(SDL, true).expect("the SDL parses")
}

fn messages(text: &str) -> Vec<String> {
    let failure = found(&catalog(), text).expect_err(text);
    failure.errors().iter().map(|error| error.message.clone()).collect()
}

#[test]
fn messages_name_the_place_in_the_schema_and_what_would_be_right() {
    for (text, expected) in [
        ("{ nope }", "There is no field Query.nope. Did you mean Query.node?"),
        ("{ a { bb(s: \"\") } }", "There is no field Query.bb. Did you mean Query.b?"),
        ("{ a(m: 1) { __typename } }", "There is no argument Query.a(m:). Did you mean Query.a(n:)?"),
        ("{ a(n: 1 n: 1) { __typename } }", "The argument Query.a(n:) is given twice."),
        ("{ b }", "Query.b(s:) is required: a value of type String!."),
        ("{ a }", "Query.a is of type Query: say which of its fields you want, `a { … }`."),
        ("{ b(s: \"\") { c } }", "Query.b is of type Int: that has no fields to select."),
        ("{ __typename { c } }", "Query.__typename is of type String!: that has no fields to select."),
        ("{ __typename(n: 1) }", "There is no argument Query.__typename(n:)."),
        ("{ a(n: \"5\") { __typename } }", "n: \"5\" is not an Int (a whole number of 32 bits). See Query.a(n:)."),
        (
            "query($n: Int!) { a(x: { n: $n, inner: { n: 1, m: [true] } }) { __typename } }",
            "x.inner.m: a list is not an Int (a whole number of 32 bits). See Input.m.",
        ),
        ("{ a(x: { n: 1, nope: 1 }) { __typename } }", "x.nope: Input has no such field."),
        ("{ a(x: { m: 1 }) { __typename } }", "x.n: Input requires this field. See Input.n."),
        (
            "{ a(x: { n: 1, word: \"HELLO\" }) { __typename } }",
            "x.word: \"HELLO\" is a text; write the value of Word without quotes. See Input.word.",
        ),
        (
            "{ a(x: { n: 1, word: HELO }) { __typename } }",
            "x.word: HELO is not a Word; it takes HELLO or BYE. See Input.word.",
        ),
        (
            "{ a(one: {}) { __typename } }",
            "one: exactly one field of OneOf is to be given, and not null: n or s. See Query.a(one:).",
        ),
        (
            "{ many(of: \"usr_0199c0ffee0070008000000000000001\") { __typename } }",
            "of: \"usr_0199c0ffee0070008000000000000001\" is not the id of a Ticket: those begin with `tic_`. See Query.many(of:).",
        ),
        (
            "{ secret(token: \"hunter2\") }",
            "token: this text is not an Int (a whole number of 32 bits). See Query.secret(token:).",
        ),
        (
            "query A($n: Int) { b(s: $n) }",
            "The variable $n is of type Int and stands where String! is expected. See Query.b(s:).",
        ),
        (
            "query A($n: Int) { a(one: { n: $n }) { __typename } }",
            "The variable $n is of type Int and stands where Int! is expected. See OneOf.n.",
        ),
        ("query A { a(n: $n) { __typename } }", "The variable $n is none of the operation A: declare it."),
        ("query A($n: Int) { __typename }", "The variable $n is not used: use it or leave it out."),
        (
            "query A($n: Int = \"x\") { a(n: $n) { __typename } }",
            "$n: \"x\" is not an Int (a whole number of 32 bits).",
        ),
        ("query A($n: Itn) { a(n: $n) { __typename } }", "There is no type Itn. Did you mean Int?"),
        (
            "query A($n: Query) { a(n: $n) { __typename } }",
            "The variable $n is of type Query, which is no type of inputs.",
        ),
        ("{ node { ... on Word { id } } }", "A fragment is for a type with fields; Word has none."),
        ("{ node { ... on Query { b(s: \"\") } } }", "A fragment on Query never applies here: this is Node."),
        ("{ __typename @ours @ours }", "The directive @ours stands here twice."),
        ("{ ... @ours { __typename } }", "The directive @ours cannot stand at a fragment without a name."),
        ("{ __typename @skip }", "@skip(if:) is required: a value of type Boolean!."),
        ("{ __typename @nope }", "There is no directive @nope here."),
        (
            "{ __typename } fragment F on Query { __typename }",
            "The fragment F is spread nowhere: spread it or leave it out.",
        ),
        ("subscription { __typename }", "__typename cannot be the root of a subscription."),
        (
            "subscription { happened @skip(if: true) }",
            "@skip and @include cannot stand at the root of a subscription: leave the field out instead.",
        ),
        (
            "{ x: b(s: \"\") x: __typename }",
            "x: Query.b and Query.__typename are different fields. Give one of them an alias.",
        ),
        (
            "{ b(s: \"1\") b(s: \"2\") }",
            "b: Query.b stands here twice with different arguments. Give one of them an alias.",
        ),
        (
            "{ node { ... on Ticket { x: subject } ... on Ticket { x: id } } }",
            "x: Ticket.subject and Ticket.id are different fields. Give one of them an alias.",
        ),
        (
            "{ a { x: b(s: \"\") } a { ... { x: secret } } }",
            "x: Query.b and Query.secret are different fields. Give one of them an alias.",
        ),
        ("mutation { __typename }", "There is no mutation here: the schema has no such operations."),
    ] {
        assert_eq!(messages(text).first().map(String::as_str), Some(expected), "{text}: {:?}", messages(text));
    }
}

#[test]
fn what_is_valid_passes() {
    for text in [
        "{ __typename ... @skip(if: true) { __typename } }",
        "{ __schema { types { fields(includeDeprecated: true) { args { defaultValue } } } } __type(name: \"Query\") { isOneOf } }",
        "query($n: Int!) { a(x: { n: $n }) { __typename } }",
        "query($n: Int = 1) { a(x: { n: $n }) { __typename } }",
        "query($n: Int!) { a(one: { n: $n }) { __typename } }",
        "query($i: ID!) { a(ids: [4, \"x\", $i]) { __typename } }",
        "query($s: Boolean!) { __typename @ours(n: 1) @include(if: $s) }",
        "{ node { ... on Ticket { x: subject } ... on User { x: name } } }",
        "subscription { happened }",
    ] {
        if let Err(failure) = found(&catalog(), text) {
            panic!("{text}: {:?}", failure.errors());
        }
    }
}

#[test]
fn variables_in_places_of_ids_are_told() {
    let text = "query A($i: ID!) { ...F } query B($j: ID!) { many(of: $j) { a(ids: [$j]) { __typename } } } fragment F on Query { many(of: $i) { __typename } }";
    let mut ids = found(&catalog(), text).expect("valid").concat();
    ids.sort_by(|a, b| a.variable.cmp(&b.variable));
    let expected = ["i", "j"].map(|variable| IdUse {
        variable: variable.into(),
        of: "Ticket".into(),
        coordinate: "Query.many(of:)".into(),
    });
    assert_eq!(ids, expected);
}

#[test]
fn many_faults_are_bounded() {
    let fields = (0..1_000).fold(String::new(), |all, n| format!("{all} a {{ nope{n} }}"));
    let text = format!("{{ {fields} }}");
    assert!(found(&catalog(), &text).expect_err("faults").errors().len() <= MOST);
}
