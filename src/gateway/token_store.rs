//! The tokens of the workspaces' launchers: from files, which are read each time, or from Secrets, which are kept until a
//! launcher refuses them. No token ever leaves this file but to its launcher.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::cluster::ClusterClient;
use crate::host::secret;
use crate::host::sync::lock;
use crate::model::gateway::settings::TokenSource;

/// Where tokens come from, and those of Secrets.
pub struct TokenStore {
    cluster: Option<Arc<ClusterClient>>,
    kept: Mutex<HashMap<(String, String, String), String>>,
}

impl TokenStore {
    pub fn new(cluster: Option<Arc<ClusterClient>>) -> Self {
        TokenStore { cluster, kept: Mutex::default() }
    }

    /// The token of a workspace. The error says why there is none, and what to do.
    pub async fn get(&self, workspace: &str, source: &TokenSource) -> Result<String, String> {
        if let Some(folder) = self.cluster.as_ref().and_then(|cluster| cluster.token_folder()) {
            let path = folder.join(workspace);
            return secret::read(&path, &path.display().to_string());
        }
        match source {
            TokenSource::File(path) => secret::read(path, &path.display().to_string()),
            TokenSource::Secret { namespace, name, key } => {
                let place = (namespace.clone(), name.clone(), key.clone());
                if let Some(token) = lock(&self.kept).get(&place) {
                    return Ok(token.clone());
                }
                self.read(place).await
            }
            TokenSource::None => {
                Err("no Secret is named: annotate the Deployment with kasm-void.kbve.com/token-secret".into())
            }
        }
    }

    /// The token that has replaced `refused`, if it was.
    pub async fn get_again(&self, workspace: &str, source: &TokenSource, refused: &str) -> Option<String> {
        if let TokenSource::Secret { namespace, name, key } = source {
            lock(&self.kept).remove(&(namespace.clone(), name.clone(), key.clone()));
        }
        self.get(workspace, source).await.ok().filter(|token| token != refused)
    }

    async fn read(&self, place: (String, String, String)) -> Result<String, String> {
        let Some(cluster) = &self.cluster else { return Err("there is no cluster".into()) };
        let (namespace, name, key) = &place;
        let token = cluster.secret(namespace, name, key).await?;
        lock(&self.kept).insert(place, token.clone());
        Ok(token)
    }
}
