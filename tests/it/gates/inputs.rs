//! What inputs answer to values that are not theirs, and to values that are at the edge of what they take: for every argument
//! and every field of every input of the schema, by the SDL.

use std::collections::{BTreeSet, HashMap, VecDeque};

use async_graphql::Variables;
use async_graphql::parser::types::{BaseType, InputValueDefinition, Type, TypeKind, TypeSystemDefinition};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tenantry::http::graphql::{Documents, Limits};
use tenantry::id::{PREFIXES, typed_name};
use tenantry::schema::Schemas;

use crate::support::TestApp;

/// What async-graphql says of values. None of it reaches a client.
pub const ENGINE_WORDS: &[&str] = &[
    "occurred while parsing",
    "Failed to parse",
    "Expected input type",
    "expected type",
    "Invalid value for argument",
    "enumeration type",
    "required but not provided",
    "Oneof",
    "unknown field",
    "Unknown field",
    "Unknown type",
    "Unknown argument",
    "async_graphql",
    "the value is",
    "invalid type:",
    "premature end of input",
    "input contains invalid characters",
];

/// An argument or a field of an input.
#[derive(Clone, Debug)]
pub struct Slot {
    pub name: String,
    pub ty: Type,
    pub required: bool,
}

/// A field with arguments, and the way to it from the root.
#[derive(Clone, Debug)]
pub struct Shown {
    /// `query`, `mutation` or `subscription`
    pub operation: &'static str,
    pub path: Vec<String>,
    /// `Type.field`
    pub coordinate: String,
    pub arguments: Vec<Slot>,
    /// The type without lists and `!`.
    pub base: String,
}

/// The schema as these tests need it: ids have the types of [`tenantry::id::typed`].
pub struct Typed {
    pub inputs: HashMap<String, Vec<Slot>>,
    pub enums: HashMap<String, Vec<String>>,
    pub scalars: BTreeSet<String>,
    pub fields: Vec<Shown>,
    pub objects: HashMap<String, Vec<Shown>>,
}

fn slots<'a>(definitions: impl IntoIterator<Item = &'a InputValueDefinition>) -> Vec<Slot> {
    let slots = definitions.into_iter().map(|definition| {
        let ty = definition.ty.node.clone();
        let required = !ty.nullable && definition.default_value.is_none();
        Slot { name: definition.name.node.to_string(), ty, required }
    });
    slots.collect()
}

/// The name of a type without lists and `!`.
pub fn base(ty: &Type) -> &str {
    match &ty.base {
        BaseType::Named(name) => name,
        BaseType::List(inner) => base(inner),
    }
}

/// A type as documents write it.
pub fn published(ty: &Type) -> String {
    let typed = base(ty);
    if typed_name(typed).is_some() { ty.to_string().replace(typed, "ID") } else { ty.to_string() }
}

impl Typed {
    pub fn read() -> Self {
        let sdl = async_graphql::parser::parse_schema(Schemas::build().typed_sdl).expect("an SDL");
        let mut typed = Self {
            inputs: HashMap::new(),
            enums: HashMap::new(),
            scalars: BTreeSet::new(),
            fields: Vec::new(),
            objects: HashMap::new(),
        };
        for definition in &sdl.definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let name = definition.node.name.node.to_string();
            match &definition.node.kind {
                TypeKind::InputObject(input) => {
                    typed.inputs.insert(name, slots(input.fields.iter().map(|field| &field.node)));
                }
                TypeKind::Enum(kind) => {
                    let values = kind.values.iter().map(|value| value.node.value.node.to_string());
                    typed.enums.insert(name, values.collect());
                }
                TypeKind::Scalar => {
                    typed.scalars.insert(name);
                }
                TypeKind::Object(object) => {
                    let fields = object.fields.iter().map(|field| Shown {
                        operation: "query",
                        path: vec![field.node.name.node.to_string()],
                        coordinate: format!("{name}.{}", field.node.name.node),
                        arguments: slots(field.node.arguments.iter().map(|argument| &argument.node)),
                        base: base(&field.node.ty.node).to_owned(),
                    });
                    let fields = fields.collect();
                    typed.objects.insert(name, fields);
                }
                _ => {}
            }
        }
        typed.reach();
        typed
    }

    /// Finds every field with arguments, by the shortest way.
    fn reach(&mut self) {
        let roots = [("query", "Query"), ("mutation", "Mutation"), ("subscription", "SubscriptionRoot")];
        let mut open: VecDeque<(&str, String, Vec<String>)> =
            roots.iter().map(|(operation, root)| (*operation, (*root).to_owned(), Vec::new())).collect();
        let mut seen = BTreeSet::new();
        while let Some((operation, object, path)) = open.pop_front() {
            if !seen.insert(object.clone()) {
                continue;
            }
            for field in self.objects.get(&object).cloned().unwrap_or_default() {
                let path = [path.clone(), field.path.clone()].concat();
                if field.arguments.iter().all(|argument| !argument.required) {
                    open.push_back((operation, field.base.clone(), path.clone()));
                }
                if !field.arguments.is_empty() {
                    self.fields.push(Shown { operation, path, ..field });
                }
            }
        }
    }

    /// A value of this type, as JSON. `edge` chooses among the values at the edge of what is taken.
    pub fn value(&self, ty: &Type, edge: usize, depth: usize) -> Value {
        match &ty.base {
            BaseType::List(inner) if depth > 3 => json!(if inner.nullable { vec![Value::Null] } else { Vec::new() }),
            BaseType::List(inner) => json!([self.value(inner, edge, depth + 1)]),
            BaseType::Named(name) => self.named(name, edge, depth),
        }
    }

    fn named(&self, name: &str, edge: usize, depth: usize) -> Value {
        let pick = |values: &[Value]| values[edge % values.len()].clone();
        if let Some(values) = self.enums.get(name) {
            return json!(values[edge % values.len()]);
        }
        if let Some(fields) = self.inputs.get(name) {
            let given = fields.iter().filter(|field| field.required || (depth < 3 && edge > 0));
            return given.map(|field| (field.name.clone(), self.value(&field.ty, edge, depth + 1))).collect();
        }
        match name {
            "Int" => pick(&[json!(1), json!(i32::MAX), json!(i32::MIN), json!(0)]),
            "Float" => pick(&[json!(1.5), json!(1e308), json!(-1e-308)]),
            "Boolean" => pick(&[json!(true), json!(false)]),
            "String" => pick(&[json!("x"), json!(""), json!("é\u{1F600}\u{202e}'\"\\%_;--\n\u{1}".repeat(300))]),
            "DateTime" => pick(&[
                json!("2027-01-04T09:00:00Z"),
                json!("+262000-01-01T00:00:00Z"),
                json!("-262000-01-01T00:00:00Z"),
                json!("0000-02-29T23:59:60.999999999+14:00"),
            ]),
            "Decimal" => pick(&[json!("1"), json!("-0.0001"), json!("99999999999999999999999999.9999")]),
            "CurrencyCode" => pick(&[json!("EUR"), json!("XXX"), json!("KWD")]),
            "JSON" => pick(&[
                json!({}),
                json!([[[[{ "a": [null, true, -0.0, 1e300, u64::MAX, "é"] }]]]]),
                json!("text"),
                json!({ "": { "==": [{ "var": "" }, {}] }, "$ref": 1, "__proto__": [] }),
            ]),
            "ID" => json!("tic_0199c0ffee0070008000000000000001"),
            name => {
                let of = typed_name(name).unwrap_or_else(|| panic!("a value for the scalar {name} is missing here"));
                let (prefix, _) = PREFIXES.iter().find(|(_, known)| *known == of).expect("a type with ids");
                json!(format!("{prefix}_0199c0ffee0070008000000000000001"))
            }
        }
    }

    /// Values that a type does not take, each with its path below the type, and the place in the schema that errors name.
    fn wrong(&self, ty: &Type, path: &str, at: &str, seen: &mut BTreeSet<String>) -> Vec<(String, String, Value)> {
        let mut wrong = Vec::new();
        let here = |value: Value| (path.to_owned(), at.to_owned(), value);
        if !ty.nullable {
            wrong.push(here(Value::Null));
        }
        let name = match &ty.base {
            BaseType::List(inner) => {
                let inner = self.wrong(inner, "", at, seen).into_iter();
                wrong.extend(inner.map(|(below, at, value)| {
                    let good = self.value(ty, 0, 2);
                    let first = good.as_array().and_then(|items| items.first().cloned()).unwrap_or(value.clone());
                    (format!("{path}[1]{below}"), at, json!([first, value]))
                }));
                return wrong;
            }
            BaseType::Named(name) => name.as_str(),
        };
        let values = match name {
            "Int" => vec![json!("5"), json!(1.5), json!(true), json!([1]), json!({}), json!(3_000_000_000_u32)],
            "Float" => vec![json!("1"), json!(true), json!({})],
            "String" => vec![json!(5), json!(true), json!({}), json!([]), json!("a\0")],
            "Boolean" => vec![json!("true"), json!(1), json!([])],
            "ID" => vec![json!(1.5), json!(true), json!({})],
            "DateTime" => vec![json!("yesterday"), json!("2027-01-04"), json!(1_700_000_000), json!({})],
            "Decimal" => vec![json!("1e5"), json!(1.5), json!(""), json!({})],
            "CurrencyCode" => vec![json!("eur"), json!("EURO"), json!(1), json!([])],
            "JSON" => vec![json!({ "a": ["\0"] })],
            name if typed_name(name).is_some() => {
                vec![json!("nope"), json!("pus_0199c0ffee0070008000000000000001"), json!(4), json!(true), json!("")]
            }
            name if self.enums.contains_key(name) => vec![json!("NOT_A_VALUE"), json!(1), json!({})],
            _ => vec![json!("x"), json!(5), json!([])],
        };
        wrong.extend(values.into_iter().map(here));
        // Where an operator's id is right, another is wrong.
        if name == "IDOfPlatformUser" {
            wrong.retain(|(_, _, value)| !value.as_str().is_some_and(|text| text.starts_with("pus_")));
        }
        if let Some(fields) = self.inputs.get(name).filter(|_| seen.insert(name.to_owned())) {
            let Value::Object(good) = self.value(ty, 0, 0) else { panic!("{name} is an object") };
            let mut with = good.clone();
            with.insert("nope".into(), json!(1));
            wrong.push((format!("{path}.nope"), String::new(), json!(with)));
            for field in fields {
                let coordinate = format!("{name}.{}", field.name);
                if field.required {
                    let mut without = good.clone();
                    without.remove(&field.name);
                    wrong.push((format!("{path}.{}", field.name), coordinate.clone(), json!(without)));
                }
                for (path, at, value) in self.wrong(&field.ty, &format!("{path}.{}", field.name), &coordinate, seen) {
                    let mut with = good.clone();
                    with.insert(field.name.clone(), value);
                    wrong.push((path, at, json!(with)));
                }
            }
        }
        wrong
    }

    /// A document that asks for a field, with these arguments, each written by `write`.
    pub fn document(&self, field: &Shown, head: &str, given: &[(&str, String)]) -> String {
        let arguments: Vec<String> = given.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let arguments = if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(" ")) };
        let selection =
            if self.objects.contains_key(&field.base) || field.base == "Node" { " { __typename }" } else { "" };
        let mut text = format!("{} {head} {{ ", field.operation);
        let (last, way) = field.path.split_last().expect("a field");
        for name in way {
            text += &format!("{name} {{ ");
        }
        text + &format!("{last}{arguments}{selection}{}", " }".repeat(way.len() + 1))
    }

    /// A value as documents write it: names of enums without quotes.
    pub fn literal(&self, ty: &Type, value: &Value) -> String {
        match (&ty.base, value) {
            (BaseType::List(inner), Value::Array(items)) => {
                let items: Vec<String> = items.iter().map(|item| self.literal(inner, item)).collect();
                format!("[{}]", items.join(" "))
            }
            (BaseType::List(inner), value) if !value.is_null() => self.literal(inner, value),
            (BaseType::Named(name), Value::Object(fields)) => {
                let slots = self.inputs.get(name.as_str());
                let any = Type::new("JSON").expect("a type");
                let fields = fields.iter().map(|(name, value)| {
                    let slot = slots.and_then(|slots| slots.iter().find(|slot| slot.name == *name));
                    format!("{name}: {}", self.literal(slot.map_or(&any, |slot| &slot.ty), value))
                });
                format!("{{{}}}", fields.collect::<Vec<_>>().join(" "))
            }
            (_, Value::Array(items)) => {
                let any = Type::new("JSON").expect("a type");
                format!("[{}]", items.iter().map(|item| self.literal(&any, item)).collect::<Vec<_>>().join(" "))
            }
            (BaseType::Named(name), Value::String(text)) if self.enums.contains_key(name.as_str()) => text.clone(),
            (_, value) => value.to_string(),
        }
    }

    fn head(field: &Shown) -> String {
        let declared: Vec<String> =
            field.arguments.iter().map(|slot| format!("${}: {}", slot.name, published(&slot.ty))).collect();
        format!("({})", declared.join(" "))
    }
}

fn documents() -> Documents {
    Documents::new(&Schemas::build().typed_sdl, Limits::default(), true)
}

/// The first error of a document, as code, field and message.
fn refused(documents: &Documents, text: &str, variables: &Value) -> (String, String, String) {
    let Err(failure) = documents.request(text, None, Variables::from_json(variables.clone())) else {
        panic!("it was taken: {text} {variables}")
    };
    let error = &failure.errors()[0];
    let extension = |name| match error.extensions.as_ref().and_then(|extensions| extensions.get(name)) {
        Some(async_graphql::Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    (extension("code"), extension("field"), error.message.clone())
}

#[test]
fn inputs_tell_what_is_wrong_with_a_value_and_where() {
    let typed = Typed::read();
    let known = ["CurrencyCode", "DateTime", "Decimal", "JSON"].map(str::to_owned);
    assert_eq!(typed.scalars, BTreeSet::from(known), "say in http/graphql/values.rs what a new scalar takes");
    let documents = documents();
    let (mut tried, mut seen) = (0, BTreeSet::new());
    for field in &typed.fields {
        let required = field.arguments.iter().filter(|slot| slot.required);
        let good: HashMap<&str, Value> =
            required.map(|slot| (slot.name.as_str(), typed.value(&slot.ty, 0, 0))).collect();
        let by_name: Vec<(&str, String)> =
            field.arguments.iter().map(|slot| (slot.name.as_str(), format!("${}", slot.name))).collect();
        let with_variables = typed.document(field, &Typed::head(field), &by_name);
        for slot in &field.arguments {
            let at = format!("{}({}:)", field.coordinate, slot.name);
            for (path, coordinate, value) in typed.wrong(&slot.ty, &slot.name, &at, &mut seen) {
                let mut variables = good.clone();
                variables.insert(&slot.name, value.clone());
                let shown = format!("{} of {at}: {value}", published(&slot.ty));
                let (code, told, message) = refused(&documents, &with_variables, &json!(variables));
                check(&message, &shown);
                assert_eq!((code.as_str(), told), ("INVALID_VARIABLE", format!("${path}")), "{shown}: {message}");
                // A variable's own type is written in the document; what is inside of it is in the schema.
                let inside = path.contains('.') || typed_name(base(&slot.ty)).is_some() && value.is_string();
                assert!(!inside || message.contains(&coordinate), "{shown}: {message}");
                tried += 1;
                // NUL has an escape in JSON that documents do not know.
                let literals = good.iter().filter(|(name, _)| **name != slot.name);
                let literals = literals.map(|(name, value)| {
                    let slot = field.arguments.iter().find(|slot| slot.name == *name).expect("an argument");
                    (*name, typed.literal(&slot.ty, value))
                });
                let wrong = (slot.name.as_str(), typed.literal(&slot.ty, &value));
                let text = typed.document(field, "", &literals.chain([wrong]).collect::<Vec<_>>());
                let (code, told, message) = refused(&documents, &text, &json!({}));
                check(&message, &text);
                assert_eq!((code.as_str(), told), ("INVALID_ARGUMENT", path), "{text}: {message}");
                assert!(message.contains(&coordinate), "{text}: {message}");
                tried += 1;
            }
        }
    }
    println!("{tried} wrong values of {} fields with arguments", typed.fields.len());
    assert!(tried > 4_000, "{tried}");
}

fn check(message: &str, shown: &str) {
    for word in ENGINE_WORDS {
        assert!(!message.contains(word), "{shown}: {message}");
    }
}

/// Every field with arguments, every mutation among them, with values at the edge of what it takes: whatever it answers, it
/// is neither the engine's words nor a failure of the server.
#[tokio::test]
async fn inputs_at_their_edges_break_nothing() {
    let app = TestApp::start().await;
    let token = app.token("alice@example.com", Some("acme-corp")).await;
    let typed = Typed::read();
    let mut requests = Vec::new();
    // What would end the organization, or the membership it is done with, is tried last.
    let ends = |field: &Shown| {
        ["organizationDelete", "organizationLeave", "organizationSuspend"].iter().any(|name| field.path[0] == *name)
    };
    for edge in 0..4 {
        for field in typed.fields.iter().filter(|field| field.operation != "subscription" && !ends(field)) {
            let by_name: Vec<(&str, String)> =
                field.arguments.iter().map(|slot| (slot.name.as_str(), format!("${}", slot.name))).collect();
            let text = typed.document(field, &Typed::head(field), &by_name);
            let variables: HashMap<&str, Value> =
                field.arguments.iter().map(|slot| (slot.name.as_str(), typed.value(&slot.ty, edge, 0))).collect();
            requests.push((text, json!(variables)));
        }
    }
    let count = requests.len();
    let answers = stream::iter(requests).map(|(text, variables)| {
        let (app, token) = (&app, &token);
        async move {
            let body = json!({ "query": text, "variables": variables });
            let request = app.client().post(format!("{}/graphql", app.base_url())).bearer_auth(token).json(&body);
            let response = request.send().await.expect("a response");
            let status = response.status();
            let answer = response.text().await.expect("text");
            assert!(!status.is_server_error() && !answer.contains("\"INTERNAL\""), "{status} {body}: {answer}");
            for word in ENGINE_WORDS {
                assert!(!answer.contains(word), "{body}: {answer}");
            }
        }
    });
    let () = answers.buffer_unordered(8).collect().await;
    println!("{count} requests");
    assert!(count > 500, "{count}");
}
