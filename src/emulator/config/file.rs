//! Short forms in the configuration file: a VM in one word, a latency profile by name. Read by hand instead of as an
//! untagged enum, because that one's errors name neither the wrong key nor the right ones.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Latency, VmConfig};

pub(super) fn running() -> String {
    "running".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VmTable {
    name: String,
    zone: String,
    #[serde(default = "running")]
    state: String,
    #[serde(default)]
    qmp: Option<PathBuf>,
}

impl<'de> Deserialize<'de> for VmConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneVm)
    }
}

struct OneVm;

impl<'de> Visitor<'de> for OneVm {
    type Value = VmConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"NAME:ZONE\" or a table with name and zone")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<VmConfig, E> {
        match text.split_once(':') {
            Some((name, zone)) if !name.is_empty() && !zone.is_empty() => Ok(VmConfig {
                name: name.to_owned(),
                zone: zone.to_owned(),
                state: running(),
                qmp: None,
            }),
            _ => Err(E::custom(format!("VM {text:?}: expected NAME:ZONE"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VmConfig, A::Error> {
        let table = VmTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(VmConfig {
            name: table.name,
            zone: table.zone,
            state: table.state,
            qmp: table.qmp,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyTable {
    create: Option<u64>,
    attach: Option<u64>,
    detach: Option<u64>,
    extend: Option<u64>,
    delete: Option<u64>,
    modify: Option<u64>,
    describe: Option<u64>,
    reply: Option<u64>,
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(OneLatency)
    }
}

struct OneLatency;

impl<'de> Visitor<'de> for OneLatency {
    type Value = Latency;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`fast` or `realistic`, or a table of milliseconds")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Latency, E> {
        match text {
            "fast" => Ok(Latency::FAST),
            "realistic" => Ok(Latency::REALISTIC),
            _ => Err(E::custom(format!(
                "latency {text:?}: expected `fast` or `realistic`, or a table of milliseconds"
            ))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Latency, A::Error> {
        let table = LatencyTable::deserialize(MapAccessDeserializer::new(map))?;
        let base = Latency::FAST;
        Ok(Latency {
            create: table.create.unwrap_or(base.create),
            attach: table.attach.unwrap_or(base.attach),
            detach: table.detach.unwrap_or(base.detach),
            extend: table.extend.unwrap_or(base.extend),
            delete: table.delete.unwrap_or(base.delete),
            modify: table.modify.unwrap_or(base.modify),
            describe: table.describe.unwrap_or(base.describe),
            reply: table.reply.unwrap_or(base.reply),
        })
    }
}
