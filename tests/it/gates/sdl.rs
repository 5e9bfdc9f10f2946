//! The schema as the gates need it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use async_graphql::parser::types::{BaseType, FieldDefinition, Type, TypeKind, TypeSystemDefinition};
use tenantry::schema::Schemas;

/// A field of an object or an input object.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    /// The type without lists and `!`.
    pub base: String,
    pub list: bool,
    pub required: bool,
    pub arguments: Vec<Field>,
}

/// Types by name.
pub struct Sdl {
    pub objects: BTreeMap<String, Vec<Field>>,
    pub inputs: BTreeMap<String, Vec<Field>>,
    pub enums: BTreeMap<String, Vec<String>>,
}

/// A field that shows a list: how to get there from the query's root, and what it takes.
#[derive(Clone, Debug)]
pub struct ListField {
    /// `organization/tickets/messages`
    pub path: Vec<String>,
    /// The entities on the way, the list's own last.
    pub entities: Vec<String>,
    pub filter: String,
    pub order: String,
}

fn base(ty: &Type) -> (String, bool) {
    match &ty.base {
        BaseType::Named(name) => (name.to_string(), false),
        BaseType::List(inner) => (base(inner).0, true),
    }
}

fn field(name: &str, ty: &Type, arguments: Vec<Field>) -> Field {
    let (base, list) = base(ty);
    Field { name: name.to_owned(), base, list, required: !ty.nullable, arguments }
}

fn output(definition: &FieldDefinition) -> Field {
    let arguments = definition.arguments.iter().map(|argument| {
        let argument = &argument.node;
        let mut field = field(&argument.name.node, &argument.ty.node, Vec::new());
        field.required &= argument.default_value.is_none();
        field
    });
    field(&definition.name.node, &definition.ty.node, arguments.collect())
}

impl Sdl {
    pub fn read() -> Self {
        let document = async_graphql::parser::parse_schema(Schemas::build().sdl).expect("an SDL");
        let mut sdl = Self { objects: BTreeMap::new(), inputs: BTreeMap::new(), enums: BTreeMap::new() };
        for definition in &document.definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let name = definition.node.name.node.to_string();
            match &definition.node.kind {
                TypeKind::Object(object) => {
                    sdl.objects.insert(name, object.fields.iter().map(|field| output(&field.node)).collect());
                }
                TypeKind::InputObject(input) => {
                    let fields = input.fields.iter().map(|f| field(&f.node.name.node, &f.node.ty.node, Vec::new()));
                    sdl.inputs.insert(name, fields.collect());
                }
                TypeKind::Enum(kind) => {
                    let values = kind.values.iter().map(|value| value.node.value.node.to_string());
                    sdl.enums.insert(name, values.collect());
                }
                _ => {}
            }
        }
        sdl
    }

    /// The root fields of `Query`, `Mutation` or `SubscriptionRoot`.
    pub fn root(&self, name: &str) -> &[Field] {
        &self.objects[name]
    }

    /// Every field that shows a list, by the shortest way.
    pub fn lists(&self) -> Vec<ListField> {
        let mut lists = Vec::new();
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut open: VecDeque<(String, Vec<String>, Vec<String>)> = VecDeque::from([("Query".into(), vec![], vec![])]);
        while let Some((object, path, entities)) = open.pop_front() {
            if !seen.insert(object.clone()) {
                continue;
            }
            for field in &self.objects[&object] {
                let argument = |name: &str| field.arguments.iter().find(|argument| argument.name == name);
                let on = |name: &str| [path.clone(), vec![name.to_owned()]].concat();
                if let (Some(filter), Some(order)) = (argument("where"), argument("orderBy")) {
                    let row = field.base.strip_suffix("Connection").expect("a list is a connection").to_owned();
                    let entities = [entities.clone(), vec![row.clone()]].concat();
                    open.push_back((row, on(&field.name), entities.clone()));
                    lists.push(ListField {
                        path: on(&field.name),
                        entities,
                        filter: filter.base.clone(),
                        order: order.base.clone(),
                    });
                } else if self.objects.contains_key(&field.base) && field.arguments.iter().all(|a| !a.required) {
                    open.push_back((field.base.clone(), on(&field.name), entities.clone()));
                }
            }
        }
        lists
    }
}

impl ListField {
    /// A document with this selection of the list, whose arguments are the variables `$where`, `$orderBy` and so on. Lists
    /// on the way show all their rows.
    pub fn document(&self, selection: &str) -> String {
        self.document_below("first: 20", selection)
    }

    /// The same, with these arguments of the lists on the way.
    pub fn document_below(&self, parents: &str, selection: &str) -> String {
        let ListField { filter, order, .. } = self;
        let mut text = format!(
            "query($where: {filter}, $orderBy: [{order}!], $first: Int, $after: String, $last: Int, $before: String) "
        );
        let last = self.path.len() - 1;
        for (n, name) in self.path.iter().enumerate() {
            text += &if n == last {
                format!(
                    "{{ {name}(where: $where, orderBy: $orderBy, first: $first, after: $after, last: $last, before: $before) {selection} "
                )
            } else if self.is_list(n) {
                format!("{{ {name}({parents}) {{ nodes ")
            } else {
                format!("{{ {name} ")
            };
        }
        for n in (0..=last).rev() {
            text += if n < last && self.is_list(n) { "} } " } else { "} " };
        }
        text
    }

    /// The lists are the last fields of the path, one for each entity.
    fn is_list(&self, n: usize) -> bool {
        n + self.entities.len() >= self.path.len()
    }

    pub fn name(&self) -> String {
        self.path.join("/")
    }

    pub fn entity(&self) -> &str {
        self.entities.last().expect("the list's own")
    }

    /// The lists in an answer, one for each row on the way.
    pub fn found<'a>(&self, data: &'a serde_json::Value) -> Vec<&'a serde_json::Value> {
        let mut open = vec![data];
        for (n, name) in self.path.iter().enumerate() {
            open = open.into_iter().map(|value| &value[name.as_str()]).collect();
            if n + 1 < self.path.len() && self.is_list(n) {
                open = open.iter().flat_map(|list| list["nodes"].as_array().into_iter().flatten()).collect();
            }
        }
        open
    }
}
