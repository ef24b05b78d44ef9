//! `rlimits`: limits that the kernel keeps for each process of an app, as `ulimit` sets them. Form and check.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::manifest::quantity::Size;

/// The word for no limit.
const UNLIMITED: &str = "unlimited";

/// `Rlimits(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename = "Rlimits", deny_unknown_fields, default)]
pub struct RlimitsForm {
    /// The size of core files.
    pub core: Option<RlimitForm>,
    /// Seconds of CPU time.
    pub cpu: Option<RlimitForm>,
    /// Memory for data.
    pub data: Option<RlimitForm>,
    /// The size of files that are written.
    pub fsize: Option<RlimitForm>,
    /// Memory that is locked into RAM.
    pub memlock: Option<RlimitForm>,
    /// Open files.
    pub nofile: Option<RlimitForm>,
    /// Processes of the user.
    pub nproc: Option<RlimitForm>,
    /// Real-time priority.
    pub rtprio: Option<RlimitForm>,
    /// The size of the stack.
    pub stack: Option<RlimitForm>,
}

/// A number, `"unlimited"`, or `"SOFT:HARD"`; sizes may have a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct RlimitForm(pub String);

/// A resource of a process that the kernel can limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Bytes of a core file.
    Core,
    /// Seconds of CPU time.
    Cpu,
    /// Bytes of data.
    Data,
    /// Bytes of a file.
    FileSize,
    /// Bytes of locked memory.
    LockedMemory,
    /// Open files.
    OpenFiles,
    /// Processes of the user.
    Processes,
    /// Real-time priority.
    RealTimePriority,
    /// Bytes of the stack.
    Stack,
}

/// One limit. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// The limit in force. A process may raise it up to `hard`.
    pub soft: Option<u64>,
    /// Only root may raise it.
    pub hard: Option<u64>,
}

/// The limits that are set; the others are inherited.
pub type Rlimits = BTreeMap<Resource, Rlimit>;

impl Resource {
    /// The name of its field.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Core => "core",
            Resource::Cpu => "cpu",
            Resource::Data => "data",
            Resource::FileSize => "fsize",
            Resource::LockedMemory => "memlock",
            Resource::OpenFiles => "nofile",
            Resource::Processes => "nproc",
            Resource::RealTimePriority => "rtprio",
            Resource::Stack => "stack",
        }
    }

    fn is_size(self) -> bool {
        match self {
            Resource::Core | Resource::Data | Resource::FileSize | Resource::LockedMemory | Resource::Stack => true,
            Resource::Cpu | Resource::OpenFiles | Resource::Processes | Resource::RealTimePriority => false,
        }
    }
}

impl RlimitsForm {
    /// Reports values that are no limits.
    pub fn check(self, fields: &mut Fields<'_>) -> Rlimits {
        let RlimitsForm { core, cpu, data, fsize, memlock, nofile, nproc, rtprio, stack } = self;
        let written = [
            (Resource::Core, core),
            (Resource::Cpu, cpu),
            (Resource::Data, data),
            (Resource::FileSize, fsize),
            (Resource::LockedMemory, memlock),
            (Resource::OpenFiles, nofile),
            (Resource::Processes, nproc),
            (Resource::RealTimePriority, rtprio),
            (Resource::Stack, stack),
        ];
        let limit =
            |(resource, form): (Resource, Option<RlimitForm>)| Some((resource, limit(resource, form?, fields)?));
        written.into_iter().filter_map(limit).collect()
    }
}

fn limit(resource: Resource, RlimitForm(text): RlimitForm, fields: &mut Fields<'_>) -> Option<Rlimit> {
    let field = resource.name();
    let text = fields.text(field, text);
    let (soft, hard) = text.split_once(':').unwrap_or((&text, &text));
    let (Some(soft), Some(hard)) = (value(resource, soft), value(resource, hard)) else {
        let example = if resource.is_size() { "\"64MiB\"" } else { "1024" };
        let help = format!("write {example}, \"{UNLIMITED}\", or two of them as in \"SOFT:HARD\"");
        fields.error(field, format!("`{text}` is not a limit"), help);
        return None;
    };
    if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
        fields.error(field, format!("`{text}`: the soft limit is above the hard one"), "write \"SOFT:HARD\"");
        return None;
    }
    if resource == Resource::OpenFiles && hard.is_none() {
        fields.error(field, "open files cannot be unlimited", "write a number; the kernel allows fs.nr_open at most");
        return None;
    }
    Some(Rlimit { soft, hard })
}

/// `None` if it is no limit; `Some(None)` for no limit.
fn value(resource: Resource, text: &str) -> Option<Option<u64>> {
    match text.trim() {
        UNLIMITED => Some(None),
        text if resource.is_size() => text.parse().ok().map(|Size(bytes)| Some(bytes)),
        text => text.parse().ok().map(Some),
    }
}

impl fmt::Display for Rlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: Option<u64>| value.map_or(UNLIMITED.into(), |value| value.to_string());
        match self.soft == self.hard {
            true => f.write_str(&text(self.soft)),
            false => write!(f, "{}:{}", text(self.soft), text(self.hard)),
        }
    }
}

impl<'de> Deserialize<'de> for RlimitForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrText)
    }
}

struct NumberOrText;

impl serde::de::Visitor<'_> for NumberOrText {
    type Value = RlimitForm;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number, or a text such as \"{UNLIMITED}\"")
    }

    fn visit_u64<E>(self, number: u64) -> Result<RlimitForm, E> {
        Ok(RlimitForm(number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<RlimitForm, E> {
        Ok(RlimitForm(text.into()))
    }
}
