//! [`Registry`]: the agents that were let in, a file each. One that is removed is shut out.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use super::authority::draw;
use super::directory::Directory;
use crate::disk::{make_directory, write_secret};
use crate::link::credential::hexadecimal;

/// Agents of one hub.
pub(crate) const AGENT_COUNT_MAX: usize = 1_024;

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Its id.
    pub agent: String,
    /// The host that its token was made for.
    pub host: String,
    /// What it is called: its host, or where another agent has that name, with a number.
    pub name: String,
    /// When it was enrolled, in seconds since 1970.
    pub enrolled_s: u64,
}

/// The agents that were let in.
#[derive(Clone, Debug)]
pub struct Registry(Directory);

impl Registry {
    /// The agents of a directory.
    #[must_use]
    pub fn new(directory: &Directory) -> Self {
        Self(directory.clone())
    }

    fn path(&self, agent: &str) -> Option<PathBuf> {
        let is_id = !agent.is_empty() && agent.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| self.0.agents().join(format!("{agent}.json")))
    }

    /// Lets an agent in.
    ///
    /// # Errors
    /// There are too many, or the file cannot be written.
    pub fn add(&self, host: &str) -> anyhow::Result<Registered> {
        make_directory(&self.0.agents())?;
        let all = self.list()?;
        ensure!(
            all.len() < AGENT_COUNT_MAX,
            "this hub has {AGENT_COUNT_MAX} agents, which is the most: remove some"
        );
        let taken: BTreeSet<&str> = all.iter().map(|it| it.name.as_str()).collect();
        let numbered = (2..).map(|number| format!("{host}~{number}"));
        let name = std::iter::once(host.to_owned())
            .chain(numbered)
            .find(|name| !taken.contains(name.as_str()));
        let enrolled = SystemTime::now().duration_since(UNIX_EPOCH);
        let registered = Registered {
            agent: hexadecimal(&draw::<8>()?),
            host: host.to_owned(),
            name: name.unwrap_or_default(),
            enrolled_s: enrolled.map_or(0, |it| it.as_secs()),
        };
        let path = self.path(&registered.agent).context("name the agent")?;
        let text = serde_json::to_vec(&registered).context("write down the agent")?;
        write_secret(&path, &text)?;
        Ok(registered)
    }

    /// An agent; none: it was never let in, or removed.
    #[must_use]
    pub fn find(&self, agent: &str) -> Option<Registered> {
        let text = std::fs::read(self.path(agent)?).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// All agents, by name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> anyhow::Result<Vec<Registered>> {
        let directory = self.0.agents();
        let list = || format!("list {}", directory.display());
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&directory).with_context(list)? {
            let path = entry.with_context(list)?.path();
            if path.extension().is_none_or(|it| it != "json") {
                continue;
            }
            let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let agent: Registered = serde_json::from_slice(&text)
                .with_context(|| format!("read {}", path.display()))?;
            all.push(agent);
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Shuts an agent out, by its name or its id.
    ///
    /// # Errors
    /// There is none, or its file cannot be removed.
    pub fn remove(&self, wanted: &str) -> anyhow::Result<Registered> {
        let all = self.list()?;
        let found = all
            .into_iter()
            .find(|it| it.agent == wanted || it.name == wanted);
        let Some(found) = found else {
            bail!("no agent is called {wanted:?}; phalanx hub agents lists them");
        };
        let path = self.path(&found.agent).context("name the agent")?;
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        Ok(found)
    }
}
