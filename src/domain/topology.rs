//! Where disks and nodes are: zones, and the node segment that tells which VM a claim was scheduled to.

use std::collections::BTreeMap;

use super::id::VmName;

/// The zone segment: the only key ever put on a PV. Part of the contract with every existing PV.
pub const ZONE_KEY: &str = "topology.additional-storage.csi.nifcloud.com/zone";
/// The node segment: reported by nodes, read by CreateVolume, never put on a PV.
pub const NODE_KEY: &str = "topology.additional-storage.csi.nifcloud.com/node";

/// A zone of NIFCLOUD, such as `east-11`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(String);

impl Zone {
    /// A zone by its name; `None` for an empty one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        (!name.is_empty()).then(|| Self(name.to_owned()))
    }

    /// The zone's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One term of a topology requirement: a zone, and the VM where the term names one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The zone of the term.
    pub zone: Zone,
    /// The node of the term. Under WaitForFirstConsumer with strict topology the single term names the
    /// selected node; under Immediate binding there is one term per node.
    pub node: Option<VmName>,
}

/// A topology requirement, preferred terms first. Duplicates are removed; order is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirement {
    /// Acceptable places, best first. Empty means: anywhere.
    pub terms: Vec<Term>,
    /// Whether any term was given at all (a requirement whose terms all lack our zone key cannot be met).
    pub given: bool,
}

impl Requirement {
    /// Reads the segments of `preferred`, then `requisite`. When requisite terms are given, preferred terms in a
    /// zone outside them are ignored, as the CSI specification demands (`TopologyRequirement`).
    #[must_use]
    pub fn read<'a, I>(preferred: I, requisite: I) -> Self
    where
        I: Iterator<Item = &'a BTreeMap<String, String>>,
    {
        let term = |segments: &BTreeMap<String, String>| {
            let zone = segments.get(ZONE_KEY).and_then(|zone| Zone::parse(zone))?;
            let node = segments
                .get(NODE_KEY)
                .and_then(|node| VmName::parse(node).ok());
            Some(Term { zone, node })
        };
        let mut given = false;
        let mut requisite_terms = Vec::new();
        for segments in requisite {
            given = true;
            requisite_terms.extend(term(segments));
        }
        let zones: std::collections::HashSet<Zone> = requisite_terms
            .iter()
            .map(|term| term.zone.clone())
            .collect();
        let has_requisite = given;
        let mut terms = Vec::new();
        for segments in preferred {
            given = true;
            terms.extend(term(segments).filter(|t| !has_requisite || zones.contains(&t.zone)));
        }
        terms.extend(requisite_terms);
        let mut seen = std::collections::HashSet::new();
        terms.retain(|term: &Term| seen.insert((term.zone.clone(), term.node.clone())));
        Self { terms, given }
    }

    /// The acceptable zones, best first, without duplicates.
    #[must_use]
    pub fn zones(&self) -> Vec<&Zone> {
        let mut seen = std::collections::HashSet::new();
        self.terms
            .iter()
            .map(|term| &term.zone)
            .filter(|zone| seen.insert(*zone))
            .collect()
    }
}
