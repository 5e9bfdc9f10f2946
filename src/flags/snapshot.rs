//! What decides about flags, in memory: the definitions, and of each organization its plan and its overrides.
//!
//! A snapshot never changes. A new one shares with the one before whatever stayed as it was, so that a change of one
//! organization copies the pointers of one shard.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::evaluate::{Definition, Evaluation, Override, Subject, TargetingKeyMissing, evaluate};
use crate::client_keys::token::PublicKey;
use crate::id::{ClientKeyId, OrganizationId};
use crate::organizations::OrganizationPlan;

/// Organizations are spread over so many maps by the last byte of their id, which is random.
const SHARDS: usize = 256;

/// Which configuration an organization had: equal where nothing changed, on every instance of one build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Etag(pub u64);

impl std::fmt::Display for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// All definitions.
#[derive(Debug, Default)]
pub struct Definitions {
    /// By key, ascending.
    all: Vec<Definition>,
    tag: u64,
    /// When one begins or ends, ascending.
    turns: Vec<DateTime<Utc>>,
}

impl Definitions {
    /// From rows in any order.
    #[must_use]
    pub fn new(mut all: Vec<Definition>) -> Self {
        all.sort_by(|one, other| one.key.cmp(&other.key));
        let mut turns: Vec<_> = all.iter().flat_map(|one| [one.starts_at, one.ends_at]).flatten().collect();
        turns.sort_unstable();
        Self { tag: tag_of(&all), turns, all }
    }

    /// Every one, by key.
    #[must_use]
    pub fn all(&self) -> &[Definition] {
        &self.all
    }

    /// The one with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Definition> {
        self.all.binary_search_by(|one| one.key.as_str().cmp(key)).ok().map(|at| &self.all[at])
    }
}

/// What an organization has that others have not.
#[derive(Debug)]
pub struct OrganizationFlags {
    plan: OrganizationPlan,
    /// By key, ascending.
    overrides: Box<[(Arc<str>, Override)]>,
    tag: u64,
    /// When an override ends, ascending.
    turns: Box<[DateTime<Utc>]>,
}

impl OrganizationFlags {
    /// From its plan and its overrides, in any order.
    #[must_use]
    pub fn new(plan: OrganizationPlan, mut overrides: Vec<(Arc<str>, Override)>) -> Self {
        overrides.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut turns: Vec<_> = overrides.iter().filter_map(|(_, said)| said.expires_at).collect();
        turns.sort_unstable();
        let tag = tag_of(&(plan, &overrides));
        Self { plan, overrides: overrides.into(), tag, turns: turns.into() }
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> OrganizationPlan {
        self.plan
    }

    /// What was said about a flag.
    #[must_use]
    pub fn override_of(&self, key: &str) -> Option<&Override> {
        let found = self.overrides.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(&self.overrides[found].1)
    }

    /// Bytes that it takes, about.
    fn size(&self) -> usize {
        let variants = self.overrides.iter().filter_map(|(_, said)| said.variant.as_ref());
        size_of::<Self>()
            + size_of_val(&*self.overrides)
            + size_of_val(&*self.turns)
            + variants.map(String::len).sum::<usize>()
    }
}

type Shard = HashMap<OrganizationId, Arc<OrganizationFlags>>;

/// The public half of a key that signs client tokens, in force.
#[derive(Clone, Copy, Debug)]
pub struct KnownKey {
    /// Whose.
    pub organization: OrganizationId,
    /// The key.
    pub public: PublicKey,
    /// From here on it is none.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What decides, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    client_keys: Arc<HashMap<ClientKeyId, KnownKey>>,
    definitions: Arc<Definitions>,
    /// Organizations on the least plan and without overrides are in none of them.
    shards: Vec<Arc<Shard>>,
}

impl Snapshot {
    /// From everything.
    #[must_use]
    pub fn new(
        definitions: Definitions,
        organizations: impl IntoIterator<Item = (OrganizationId, OrganizationFlags)>,
        client_keys: HashMap<ClientKeyId, KnownKey>,
    ) -> Self {
        let mut shards = vec![Shard::new(); SHARDS];
        for (id, flags) in organizations {
            shards[shard_of(id)].insert(id, Arc::new(flags));
        }
        let shards = shards.into_iter().map(Arc::new).collect();
        Self { client_keys: Arc::new(client_keys), definitions: Arc::new(definitions), shards }
    }

    /// The same with other definitions.
    #[must_use]
    pub fn with_definitions(&self, definitions: Definitions) -> Self {
        Self { definitions: Arc::new(definitions), ..self.clone() }
    }

    /// The same with what is known of one organization now; `None`: nothing that others have not.
    #[must_use]
    pub fn with_organization(mut self, id: OrganizationId, flags: Option<OrganizationFlags>) -> Self {
        let shard = Arc::make_mut(&mut self.shards[shard_of(id)]);
        match flags {
            Some(flags) => drop(shard.insert(id, Arc::new(flags))),
            None => drop(shard.remove(&id)),
        }
        self
    }

    /// The same with the keys that some organizations have now.
    #[must_use]
    pub fn with_client_keys(mut self, of: &BTreeSet<Uuid>, keys: HashMap<ClientKeyId, KnownKey>) -> Self {
        let had = self.client_keys.values().any(|key| of.contains(&key.organization.uuid()));
        if had || !keys.is_empty() {
            let known = Arc::make_mut(&mut self.client_keys);
            known.retain(|_, key| !of.contains(&key.organization.uuid()));
            known.extend(keys);
        }
        self
    }

    /// A key that signs client tokens, if it is in force.
    #[must_use]
    pub fn client_key(&self, id: ClientKeyId, now: DateTime<Utc>) -> Option<KnownKey> {
        self.client_keys.get(&id).filter(|key| key.expires_at.is_none_or(|end| now < end)).copied()
    }

    /// The definitions.
    #[must_use]
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// What an organization has that others have not.
    #[must_use]
    pub fn organization(&self, id: OrganizationId) -> Option<&OrganizationFlags> {
        self.shards[shard_of(id)].get(&id).map(|found| &**found)
    }

    /// How many organizations have something that others have not.
    #[must_use]
    pub fn organizations(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Bytes that it takes, about: what is measured is in docs/OFREP.md.
    #[must_use]
    pub fn size(&self) -> usize {
        let entry = size_of::<(OrganizationId, Arc<OrganizationFlags>)>() + 2 * size_of::<usize>() + 1;
        let of_shard =
            |shard: &Shard| shard.capacity() * entry + shard.values().map(|flags| flags.size()).sum::<usize>();
        let values =
            |definition: &Definition| definition.variants.iter().map(|v| v.value.to_string().len() + 64).sum::<usize>();
        let definitions = self.definitions.all.iter().map(|one| size_of::<Definition>() + one.key.len() + values(one));
        let keys = self.client_keys.capacity() * (size_of::<(ClientKeyId, KnownKey)>() + 1);
        keys + self.shards.iter().map(|shard| of_shard(shard)).sum::<usize>() + definitions.sum::<usize>()
    }

    /// The configuration of an organization at a moment: its plan and overrides, the definitions, and which of them have begun or
    /// ended by the clock.
    #[must_use]
    pub fn etag(&self, id: OrganizationId, now: DateTime<Utc>) -> Etag {
        let passed =
            |turns: &[DateTime<Utc>]| u64::try_from(turns.partition_point(|turn| *turn <= now)).unwrap_or_default();
        let (own, own_turns) = self.organization(id).map_or((0, 0), |own| (own.tag, passed(&own.turns)));
        let parts = [self.definitions.tag, passed(&self.definitions.turns), own, own_turns];
        Etag(parts.into_iter().fold(0, mix))
    }

    /// When the configuration of an organization changes next by the clock alone.
    #[must_use]
    pub fn next_turn(&self, id: OrganizationId, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = |turns: &[DateTime<Utc>]| turns.get(turns.partition_point(|turn| *turn <= now)).copied();
        let own = self.organization(id).and_then(|own| after(&own.turns));
        [after(&self.definitions.turns), own].into_iter().flatten().min()
    }

    /// Decides flags of an organization, for the user (`None`: nobody is named) and the moment.
    #[must_use]
    pub fn decider<'a>(&'a self, id: OrganizationId, user: Option<&'a str>, now: DateTime<Utc>) -> Decider<'a> {
        Decider { snapshot: self, own: self.organization(id), organization: id.uuid().to_string(), user, now }
    }
}

/// Decides flags.
#[derive(Debug)]
pub struct Decider<'a> {
    snapshot: &'a Snapshot,
    own: Option<&'a OrganizationFlags>,
    organization: String,
    user: Option<&'a str>,
    now: DateTime<Utc>,
}

impl<'a> Decider<'a> {
    /// Decides the flag with this definition.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn decide(&self, definition: &'a Definition) -> Result<Evaluation<'a>, TargetingKeyMissing> {
        let plan = self.own.map_or(OrganizationPlan::Free, |own| own.plan);
        let said = self.own.and_then(|own| own.override_of(&definition.key));
        evaluate(definition, said, Subject { organization: &self.organization, user: self.user, plan }, self.now)
    }

    /// Every definition.
    #[must_use]
    pub fn definitions(&self) -> &'a [Definition] {
        self.snapshot.definitions.all()
    }
}

fn shard_of(id: OrganizationId) -> usize {
    let [.., last] = *id.uuid().as_bytes();
    usize::from(last)
}

/// The first 8 bytes of SHA-256 over how Rust writes it.
fn tag_of(value: &impl std::fmt::Debug) -> u64 {
    let digest: [u8; 32] = Sha256::digest(format!("{value:?}").as_bytes()).into();
    digest.iter().take(8).fold(0, |tag, byte| (tag << 8) | u64::from(*byte))
}

/// The step of `SplitMix64` (Steele, Lea and Flood, 2014) over both.
#[must_use]
pub fn mix(one: u64, other: u64) -> u64 {
    let mut z = (one ^ other).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).rotate_left(17).wrapping_add(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{FlagKind, FlagOverrideSource, FlagReason, FlagRolloutUnit, FlagValueType};
    use chrono::TimeDelta;

    fn definition(key: &str) -> Definition {
        Definition {
            key: key.into(),
            kind: FlagKind::Release,
            value_type: FlagValueType::Boolean,
            variants: Vec::new(),
            off_variant: None,
            default_enabled: false,
            minimum_plan: None,
            rollout_percentage: None,
            rollout_unit: FlagRolloutUnit::Organization,
            starts_at: None,
            ends_at: None,
        }
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
    }

    fn on(expires_at: Option<DateTime<Utc>>) -> Override {
        Override {
            source: FlagOverrideSource::Organization,
            enabled: true,
            variant: None,
            exceeds_plan: false,
            expires_at,
        }
    }

    #[test]
    fn a_change_of_one_organization_is_no_change_of_the_others() {
        let [one, other] = [1, 2].map(|number| OrganizationId::from_uuid(Uuid::from_u128(number)));
        let empty = Snapshot::new(Definitions::new(vec![definition("b"), definition("a")]), [], HashMap::new());
        let own = OrganizationFlags::new(OrganizationPlan::Pro, vec![("b".into(), on(None)), ("a".into(), on(None))]);
        let changed = empty.clone().with_organization(one, Some(own));
        assert_eq!(changed.etag(other, now()), empty.etag(other, now()));
        assert_ne!(changed.etag(one, now()), empty.etag(one, now()));
        let decided = |snapshot: &Snapshot, id| {
            let decider = snapshot.decider(id, None, now());
            decider
                .definitions()
                .iter()
                .map(|one| decider.decide(one).expect("no user is needed").reason)
                .collect::<Vec<_>>()
        };
        assert_eq!(decided(&changed, one), [FlagReason::Override; 2]);
        assert_eq!(decided(&changed, other), [FlagReason::Default; 2]);
        let back = changed.clone().with_organization(one, None);
        assert_eq!((back.etag(one, now()), back.organizations()), (empty.etag(one, now()), 0));
        assert_eq!(changed.organizations(), 1);
    }

    #[test]
    fn the_tag_changes_when_a_window_opens_or_closes() {
        let id = OrganizationId::from_uuid(Uuid::from_u128(1));
        let (opens, ends) = (now() + TimeDelta::hours(1), now() + TimeDelta::hours(2));
        let flag = Definition { starts_at: Some(opens), ..definition("a") };
        let own = OrganizationFlags::new(OrganizationPlan::Free, vec![("a".into(), on(Some(ends)))]);
        let snapshot = Snapshot::new(Definitions::new(vec![flag]), [(id, own)], HashMap::new());
        let tags = [now(), opens, ends].map(|at| snapshot.etag(id, at));
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
        assert_eq!(snapshot.etag(id, opens - TimeDelta::seconds(1)), tags[0]);
        assert_eq!([now(), opens, ends].map(|at| snapshot.next_turn(id, at)), [Some(opens), Some(ends), None]);
    }

    #[test]
    fn equal_configurations_have_equal_tags_in_whatever_order_they_were_read() {
        let id = OrganizationId::from_uuid(Uuid::from_u128(1));
        let made = |keys: [&str; 2]| {
            let own = OrganizationFlags::new(OrganizationPlan::Pro, keys.map(|key| (key.into(), on(None))).to_vec());
            Snapshot::new(Definitions::new(keys.map(definition).to_vec()), [(id, own)], HashMap::new()).etag(id, now())
        };
        assert_eq!(made(["a", "b"]), made(["b", "a"]));
        assert_ne!(made(["a", "b"]), made(["a", "c"]));
    }
}
