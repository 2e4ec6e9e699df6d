//! Taking everything back: what was made on this machine goes, and the machine is as it was.

use super::{Engine, Trouble, error::EngineError};
use crate::volume::Volumes;
use model::{ContainerId, ContainerName, NetworkMode, NetworkName};
use rustix::fs::FlockOperation;
use serde::Serialize;
use std::collections::BTreeSet;

/// What [`Engine::reset`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reset {
    /// Containers that were removed.
    pub containers: Vec<RemovedContainer>,
    /// Networks that were removed.
    pub networks: Vec<NetworkName>,
    /// Named volumes that were removed.
    pub volumes: Vec<String>,
    /// What was changed on the host and was put back or removed, and what nobody asked for.
    pub host: Vec<String>,
    /// What could not be done; the next call tries again.
    pub troubles: Vec<Trouble>,
}

/// One container that is no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RemovedContainer {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: ContainerName,
}

impl Engine {
    /// Kills and removes all containers, removes all networks, the firewall table and, only if asked for, all named volumes,
    /// and puts the host's parameters back. What can not be done is among the [`Reset::troubles`]. The network is left alone
    /// as long as a container is there.
    ///
    /// # Errors
    /// [`EngineError::File`] when the containers can not be listed.
    pub fn reset(&self, volumes: bool) -> Result<Reset, EngineError> {
        let mut done = Reset::default();
        for id in self.ids()? {
            let removed = self.record(&id).and_then(|record| self.remove(&id, true).map(|()| record.name));
            match removed {
                Ok(name) => done.containers.push(RemovedContainer { id, name }),
                Err(EngineError::NotFound { .. }) => {} // it was to be removed at its end, which this was
                Err(error) => {
                    let name = self.record(&id).ok().map(|record| record.name);
                    done.troubles.push(Trouble { container: Some(id), name, ..Trouble::new(&error) });
                }
            }
        }
        let swept = self.reconcile()?;
        done.host.extend(swept.swept);
        done.troubles.extend(swept.troubles);
        {
            // With this nobody can create a container, so that what is taken away is nobody's.
            let _creating = self.creation_lock(FlockOperation::LockExclusive)?;
            if self.ids()?.is_empty() {
                self.take_back(volumes, &mut done);
            } else if done.troubles.is_empty() {
                done.troubles.push(Trouble::new(&Created));
            }
        }
        if let Err(error) = self.remove_parent_group() {
            done.troubles.push(Trouble::new(&error));
        }
        Ok(done)
    }

    fn take_back(&self, volumes: bool, done: &mut Reset) {
        match self.networks() {
            Ok(networks) => {
                for network in networks {
                    match self.remove_network(&network.name) {
                        Ok(()) => done.networks.push(network.name),
                        Err(error) => done.troubles.push(Trouble::new(&error)),
                    }
                }
            }
            Err(error) => done.troubles.push(Trouble::new(&error)),
        }
        match self.networks_of().teardown() {
            Ok(undone) => done.host.extend(undone),
            Err(error) => done.troubles.push(Trouble::new(&error)),
        }
        if volumes {
            match Volumes::new(&self.layout).remove_all() {
                Ok(removed) => done.volumes = removed,
                Err(error) => done.troubles.push(Trouble::new(&error)),
            }
        }
    }

    /// Removes the networks that no container is to be on, running or not; gives their names. A network that is used again
    /// is made again, with other addresses.
    ///
    /// # Errors
    /// The first one's; those before it are gone.
    pub fn prune_networks(&self) -> Result<Vec<NetworkName>, EngineError> {
        // Nobody can create a container in between.
        let _creating = self.creation_lock(FlockOperation::LockExclusive)?;
        let mut used = BTreeSet::new();
        for one in self.list()? {
            if let NetworkMode::Bridge(network) = one.record.network {
                used.insert(network.to_string());
            }
        }
        let mut removed = Vec::new();
        for network in self.networks()? {
            if !used.contains(network.name.as_str()) && network.users.is_empty() {
                self.remove_network(&network.name)?;
                removed.push(network.name);
            }
        }
        Ok(removed)
    }
}

/// Somebody was quicker.
#[derive(Debug, thiserror::Error)]
#[error("a container was created meanwhile, so networks and volumes stay")]
struct Created;
