//! Manifests of trusted documents, as the tools of clients write them:
//!
//! - Relay's compiler (`persistConfig`) and graphql-codegen's client preset (`persistedDocuments`): one JSON object of ids
//!   and texts;
//! - Apollo's generators, for the web, iOS and Kotlin: `{"format": "apollo-persisted-query-manifest", "version": 1,
//!   "operations": [{"id", "name", "type", "body"}]}`, each operation with a `clientName` if it is of one client only.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::super::document::{Key, key};
use crate::hex::hex;

/// Maximum of bytes of all manifests.
const MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Maximum of documents of all manifests.
const MAX_DOCUMENTS: usize = 10_000;
/// Maximum of bytes of an id.
const MAX_ID: usize = 256;
/// Name of the file in a folder whose documents are for every client. The other files are named after their client.
const EVERYBODY: &str = "default";
/// Prefix of the SHA-256 of a text: GraphQL over HTTP, appendix "Persisted Documents".
const PREFIX: &str = "sha256:";

/// A document that clients may ask for by its id.
#[derive(Debug)]
pub(super) struct TrustedDocument {
    pub(super) id: String,
    /// The client that may ask for it; `None`: every client.
    pub(super) client: Option<String>,
    pub(super) text: String,
    pub(super) key: Key,
}

type Ids = HashMap<String, Arc<TrustedDocument>>;

/// The trusted documents of all clients.
#[derive(Debug, Default)]
pub struct Manifests {
    everybody: Ids,
    clients: HashMap<String, Ids>,
    documents: Vec<Arc<TrustedDocument>>,
    state: Vec<FileState>,
}

/// Path, modification time and length of a file, taken before it is read.
pub(super) type FileState = (PathBuf, Option<SystemTime>, u64);

impl Manifests {
    /// Reads a manifest, or all of a folder: `web.json` there has the documents of the client `web`, and `default.json`
    /// those of every client.
    ///
    /// # Errors
    /// What is wrong, with the file and, where its JSON is, the line.
    pub fn load(path: &Path) -> Result<Self, String> {
        let state = state(path)?;
        let mut manifests = Self { state, ..Self::default() };
        let size: u64 = manifests.state.iter().map(|(_, _, length)| length).sum();
        if size > MAX_BYTES {
            return Err(format!("{} has {size} bytes; at most {MAX_BYTES} are read", path.display()));
        }
        for (file, ..) in manifests.state.clone() {
            let client = if file == path { None } else { client_of(&file)? };
            let read = || {
                let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
                let manifest: Manifest = serde_json::from_str(&text).map_err(|error| error.to_string())?;
                Ok::<_, String>(manifest.0)
            };
            let entries = read().map_err(|problem| format!("{}: {problem}", file.display()))?;
            for entry in entries {
                let client = entry.client.or_else(|| client.clone());
                manifests
                    .add(entry.id, client, entry.text)
                    .map_err(|problem| format!("{}: {problem}", file.display()))?;
            }
        }
        Ok(manifests)
    }

    fn add(&mut self, id: String, client: Option<String>, text: String) -> Result<(), String> {
        if id.is_empty() || id.len() > MAX_ID || id.chars().any(char::is_control) {
            let shown: String = id.chars().take(40).collect();
            return Err(format!("the id {shown:?} does not have 1 to {MAX_ID} bytes without control characters"));
        }
        if let Some(client) = client.as_deref().filter(|client| super::shortened(client) != *client) {
            return Err(format!("the name of the client {client:?} is longer than {} characters", super::MAX_CLIENT));
        }
        if self.documents.len() >= MAX_DOCUMENTS {
            return Err(format!("there are more than {MAX_DOCUMENTS} documents"));
        }
        let key = key(&text);
        let prefixed = format!("{PREFIX}{}", hex(&key));
        if id.starts_with(PREFIX) && id != prefixed {
            return Err(format!("the document \"{id}\" has another SHA-256: {prefixed}"));
        }
        let document = Arc::new(TrustedDocument { id, client, text, key });
        let ids = match &document.client {
            Some(client) => self.clients.entry(client.clone()).or_default(),
            None => &mut self.everybody,
        };
        // The appendix recommends the SHA-256 of the text for every document.
        for id in [prefixed, document.id.clone()] {
            if let Some(other) = ids.insert(id, Arc::clone(&document))
                && other.text != document.text
            {
                return Err(format!("the id \"{}\" stands for two documents", document.id));
            }
        }
        self.documents.push(document);
        Ok(())
    }

    /// Returns the document with this id: the client's own, or else one for every client.
    pub(super) fn find(&self, client: Option<&str>, id: &str) -> Option<&Arc<TrustedDocument>> {
        // Longer ones are not hashed.
        if id.len() > MAX_ID {
            return None;
        }
        let own = client.and_then(|client| self.clients.get(client));
        // Apollo's clients send a bare hash, `documentId` has the prefix.
        let other = if id.len() == 64 { Some(format!("{PREFIX}{id}")) } else { None };
        let mut all = [own, Some(&self.everybody)].into_iter().flatten();
        all.find_map(|ids| ids.get(id).or_else(|| ids.get(other.as_ref()?)))
    }

    /// All documents.
    pub(super) fn documents(&self) -> &[Arc<TrustedDocument>] {
        &self.documents
    }

    /// The files as they were before they were read.
    pub(super) fn state(&self) -> &[FileState] {
        &self.state
    }
}

/// Returns the state of the files: of the one, or of all in the folder that end in `.json`, ordered by name.
pub(super) fn state(path: &Path) -> Result<Vec<FileState>, String> {
    let problem = |path: &Path, error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let of = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).map_err(|error| problem(&path, error))?;
        Ok::<_, String>((metadata.is_file(), (path, metadata.modified().ok(), metadata.len())))
    };
    if !std::fs::metadata(path).map_err(|error| problem(path, error))?.is_dir() {
        return Ok(vec![of(path.to_path_buf())?.1]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| problem(path, error))? {
        let file = entry.map_err(|error| problem(path, error))?.path();
        if file.extension().is_some_and(|extension| extension == "json")
            && let (true, state) = of(file)?
        {
            files.push(state);
        }
    }
    files.sort();
    if files.is_empty() { Err(format!("the folder {} has no .json file", path.display())) } else { Ok(files) }
}

/// Returns the client that a file in a folder is named after; `None` for every client.
fn client_of(file: &Path) -> Result<Option<String>, String> {
    let name = file.file_stem().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| format!("the name of {} is not UTF-8", file.display()))?;
    Ok(Some(name).filter(|name| *name != EVERYBODY).map(str::to_owned))
}

struct Entry {
    id: String,
    client: Option<String>,
    text: String,
}

/// A document in a manifest of Apollo's generators.
#[derive(Deserialize)]
struct Operation {
    id: String,
    body: String,
    #[serde(default, rename = "clientName")]
    client_name: Option<String>,
}

/// One file. What is wrong is found while it is read, so that the message has the line.
struct Manifest(Vec<Entry>);

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Manifest;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object of ids and documents, or an apollo-persisted-query-manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Manifest, A::Error> {
        let mut is_apollo = false;
        let mut operations: Option<Vec<Operation>> = None;
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "format" => {
                    let format: String = map.next_value()?;
                    if format != "apollo-persisted-query-manifest" {
                        return Err(A::Error::custom(format!("the format {format:?} is not known")));
                    }
                    is_apollo = true;
                }
                "version" => {
                    let version: serde_json::Value = map.next_value()?;
                    if version != 1 {
                        return Err(A::Error::custom(format!("version {version} is not known, 1 is")));
                    }
                }
                "operations" => operations = Some(map.next_value()?),
                _ if is_apollo => drop(map.next_value::<IgnoredAny>()?),
                _ => entries.push(Entry { id: name, client: None, text: map.next_value()? }),
            }
        }
        match (is_apollo, operations) {
            (true, Some(operations)) => {
                let entry = |operation: Operation| Entry {
                    id: operation.id,
                    client: operation.client_name,
                    text: operation.body,
                };
                Ok(Manifest(operations.into_iter().map(entry).collect()))
            }
            (true, None) => Err(A::Error::custom("`operations` is missing")),
            (false, Some(_)) => Err(A::Error::custom("`format` is missing: apollo-persisted-query-manifest")),
            (false, None) => Ok(Manifest(entries)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let folder = std::env::temp_dir().join(format!("tenantry-manifests-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            for (file, text) in files {
                std::fs::write(folder.join(file), text).expect("a file");
            }
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn file(name: &str, text: &str) -> Result<Manifests, String> {
        let folder = Folder::new(name, &[("a.json", text)]);
        Manifests::load(&folder.0.join("a.json"))
    }

    fn found<'a>(manifests: &'a Manifests, client: Option<&str>, id: &str) -> Option<&'a str> {
        manifests.find(client, id).map(|document| document.text.as_str())
    }

    #[test]
    fn ids_are_found_in_both_spellings() {
        let text = "query Viewer { viewer { user { email } } }";
        let hash = "69c39e734e53ed6ac54954cce121d76e7c7793b779236134059fa7bc1a55411c";
        let relay = format!(r#"{{"4f031fe5598b556bea6e1e38404e80da": "{text}"}}"#);
        let codegen = format!(r#"{{"sha256:{hash}": "{text}"}}"#);
        let apollo = |id: &str| {
            format!(
                r#"{{"format":"apollo-persisted-query-manifest","version":1,"more":{{}},
                     "operations":[{{"id":"{id}","name":"Viewer","type":"query","body":"{text}"}}]}}"#
            )
        };
        for (name, manifest, more) in [
            ("relay", relay, "4f031fe5598b556bea6e1e38404e80da"),
            ("codegen", codegen, hash),
            ("apollo", apollo(hash), hash),
            ("custom", apollo("web~1.0~viewer"), "web~1.0~viewer"),
        ] {
            let manifests = file(name, &manifest).expect(name);
            for id in [hash, &format!("sha256:{hash}"), more] {
                assert_eq!(found(&manifests, Some("any"), id), Some(text), "{name}: {id}");
            }
            for id in
                ["", "sha256:", "../a.json", "__proto__", "constructor", &"a".repeat(1 << 20), &hash.to_uppercase()]
            {
                assert_eq!(found(&manifests, None, id), None, "{name}");
            }
        }
    }

    /// The same cases as Apollo's router has for `clientName`, and files named by clients.
    #[test]
    fn documents_of_one_client_are_not_those_of_another() {
        let operation = |id: &str, body: &str, client: &str| {
            format!(r#"{{"id":"{id}","name":"a","type":"query","body":"{body}","clientName":{client}}}"#)
        };
        let operations = [
            operation("both", "{ all: __typename }", "null"),
            operation("both", "{ web: __typename }", "\"web\""),
            operation("only", "{ only: __typename }", "\"web\""),
        ];
        let apollo = format!(
            r#"{{"format":"apollo-persisted-query-manifest","version":1,"operations":[{}]}}"#,
            operations.join(",")
        );
        let files = [
            ("default.json", apollo.as_str()),
            ("ios.json", r#"{"both": "{ ios: __typename }", "mine": "{ mine: __typename }"}"#),
            ("notes.txt", "no manifest"),
        ];
        let folder = Folder::new("clients", &files);
        let manifests = Manifests::load(&folder.0).expect("good manifests");
        for (client, id, expected) in [
            (None, "both", Some("{ all: __typename }")),
            (Some("not-web"), "both", Some("{ all: __typename }")),
            (Some("web"), "both", Some("{ web: __typename }")),
            (Some("web"), "only", Some("{ only: __typename }")),
            (None, "only", None),
            (Some("ios"), "only", None),
            (Some("ios"), "both", Some("{ ios: __typename }")),
            (Some("ios"), "mine", Some("{ mine: __typename }")),
            (Some("web"), "mine", None),
            (None, "mine", None),
            (Some("ios.json"), "mine", None),
            (Some("../ios"), "mine", None),
            (Some("default"), "mine", None),
        ] {
            assert_eq!(found(&manifests, client, id), expected, "{client:?} {id}");
        }
    }

    #[test]
    fn what_is_read_is_bounded() {
        let folder = Folder::new("large", &[]);
        let large = folder.0.join("a.json");
        std::fs::File::create(&large).and_then(|file| file.set_len(MAX_BYTES + 1)).expect("a file");
        assert!(Manifests::load(&large).expect_err("too large").contains("at most 16777216 are read"));
        let documents = |number: usize| {
            let documents: Vec<String> = (0..number).map(|id| format!("\"{id}\": \"{{ a }}\"")).collect();
            file("many", &format!("{{{}}}", documents.join(",")))
        };
        assert_eq!(documents(MAX_DOCUMENTS).expect("so many").documents().len(), MAX_DOCUMENTS);
        assert!(documents(MAX_DOCUMENTS + 1).expect_err("too many").contains("more than 10000 documents"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let apollo = |version: &str, operations: &str| {
            format!(
                "{{\"format\":\"apollo-persisted-query-manifest\",\n\"version\":{version},\n\"operations\":{operations}}}"
            )
        };
        let twice = r#"[{"id":"a","name":"A","type":"query","body":"{ a }"},{"id":"a","name":"B","type":"query","body":"{ b }"}]"#;
        let two = "{\"a\": \"{ a }\", \"a\": \"{ b }\"}".to_owned();
        let wrong = format!("{{\"sha256:{}\": \"{{ a }}\"}}", "0".repeat(64));
        for (number, (text, expected)) in [
            (String::new(), "line 1 column 0"),
            ("{\"a\": \"{ a }\",\n\"b\": \"{".to_owned(), "line 2"),
            ("{\"a\": \"{ a }\",\n\"b\": 7}".to_owned(), "line 2"),
            ("[]".to_owned(), "expected an object of ids and documents"),
            (apollo("2", "[]"), "version 2 is not known, 1 is at line 2"),
            (apollo("1", "[{\"id\":\"a\"}]"), "missing field `body` at line 3"),
            (apollo("1", "{}"), "line 3"),
            ("{\"format\":\"other\"}".to_owned(), "the format \"other\" is not known"),
            ("{\"operations\":[]}".to_owned(), "`format` is missing"),
            // As Apollo's generator for iOS has written it: one id, two operations.
            (apollo("1", twice), "the id \"a\" stands for two documents"),
            (two, "the id \"a\" stands for two documents"),
            (wrong, "has another SHA-256"),
            ("{\"\": \"{ a }\"}".to_owned(), "does not have 1 to 256 bytes"),
            (format!("{{\"{}\": \"{{ a }}\"}}", "a".repeat(257)), "does not have 1 to 256 bytes"),
            ("{\"a\\u0000\": \"{ a }\"}".to_owned(), "does not have 1 to 256 bytes"),
            (
                apollo("1", &format!("[{{\"id\":\"a\",\"body\":\"{{ a }}\",\"clientName\":\"{}\"}}]", "w".repeat(65))),
                "is longer than 64 characters",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let problem = file(&format!("wrong-{number}"), &text).expect_err(&text);
            assert!(problem.contains(expected) && problem.contains("a.json"), "{text}: {problem}");
        }
        assert!(Manifests::load(Path::new("/no/such/file")).expect_err("nothing").contains("cannot be read"));
        let empty = Folder::new("empty", &[]);
        assert!(Manifests::load(&empty.0).expect_err("nothing").contains("has no .json file"));
        assert!(file("none", "{}").expect("no documents yet").documents().is_empty());
        assert!(file("same", r#"{"a": "{ a }", "a": "{ a }"}"#).is_ok());
    }
}
