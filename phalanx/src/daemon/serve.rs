//! The HTTP side of the daemon: a runtime of its own, whose threads hold no capability.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::feed::Outlet;
use crate::agent::{HubCaptures, Orders, UplinkStatus, record};
use crate::api::Api;
use crate::api::recorder::Recorder;
use crate::api::serve::{Listen, Server, TlsFiles};
use crate::api::service::{self, Inlet, Settings};
use crate::auth::Access;
use crate::capture::Keeping;
use crate::config::Config;
use crate::hub::Lines;
use crate::hub::capture::PathCaptures;
use crate::privilege;
use crate::view::Outlook;

/// Threads of the runtime: requests are few, and the host's CPUs belong to others.
const THREAD_COUNT: usize = 2;
/// Longest time that running requests get when the daemon ends.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The HTTP side.
pub(crate) struct Service {
    runtime: Runtime,
    server: Option<Server>,
    access: Access,
    address: SocketAddr,
    stops: watch::Sender<bool>,
    outlook: Option<Arc<Outlook>>,
    recorder: Option<Recorder>,
    task: Option<JoinHandle<()>>,
}

impl Service {
    /// Binds the address; nobody is served yet.
    pub(crate) fn bind(config: &Config) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREAD_COUNT)
            .max_blocking_threads(THREAD_COUNT)
            .thread_name("api")
            .enable_all()
            .on_thread_start(|| {
                if let Err(error) = privilege::keep_only(&[]) {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "an API thread keeps capabilities"
                    );
                }
            })
            .build()
            .context("start the runtime")?;
        let access = Access::new(config.tokens.clone(), config.local_role);
        let certificate = config.tls_certificate_file.as_ref();
        let files = certificate.zip(config.tls_key_file.as_ref());
        let tls = files.map(|(certificate, key)| TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        });
        let listen = Listen {
            address: config.listen,
            tls,
        };
        let server = runtime.block_on(Server::bind(&listen, access.has_tokens()))?;
        let address = server
            .address()
            .context("read the address that is listened on")?;
        let stops = watch::Sender::new(false);
        Ok(Self {
            runtime,
            server: Some(server),
            access,
            address,
            stops,
            outlook: None,
            recorder: None,
            task: None,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Folds the feed and serves. With `lines` the agents at their ends take the captures.
    pub(crate) fn start(
        &mut self,
        outlet: Outlet,
        keeping: Keeping,
        lines: Option<Arc<Lines>>,
    ) -> anyhow::Result<()> {
        let Outlet {
            feed,
            records,
            daemon,
        } = outlet;
        let outlook = Arc::new(Outlook::new(daemon.clock.clone())?);
        self.outlook = Some(Arc::clone(&outlook));
        let settings = Settings {
            access: self.access.clone(),
            is_loopback: self.address.ip().to_canonical().is_loopback(),
            keeping,
            lines,
        };
        let api = Arc::new(Api::new(settings, outlook, daemon));
        self.recorder = api.captures.clone().ok();
        let server = self
            .server
            .take()
            .context("the service was started already")?;
        let inlet = Inlet { feed, records };
        let serving = service::run(server, api, inlet, self.stops.subscribe());
        self.task = Some(self.runtime.spawn(serving));
        Ok(())
    }

    /// Shows how the uplink of an agent does.
    pub(crate) fn show_uplink(&self, uplink: Arc<UplinkStatus>) {
        if let Some(outlook) = &self.outlook {
            outlook.set_uplink(uplink);
        }
    }

    /// Takes the captures that the hub asks for.
    pub(crate) fn record_for_hub(&self, orders: Orders, allowed: HubCaptures) {
        if let Some(Recorder::Here(captures)) = &self.recorder {
            self.runtime
                .spawn(record(orders, Arc::clone(captures), allowed));
        }
    }

    /// The captures of a hub; none where they cannot be kept.
    pub(crate) fn path_captures(&self) -> Option<Arc<PathCaptures>> {
        match &self.recorder {
            Some(Recorder::Agents(captures)) => Some(Arc::clone(captures)),
            Some(Recorder::Here(_)) | None => None,
        }
    }

    /// Waits until `/readyz` says that the daemon is ready, for `timeout` at most; whether it does.
    pub(crate) fn await_ready(&self, timeout: Duration) -> bool {
        let Some(outlook) = &self.outlook else {
            return false;
        };
        let told = async { tokio::time::timeout(timeout, outlook.kernel_told()).await };
        self.runtime.block_on(told).is_ok()
    }

    /// Lets running requests and captures end, for a moment.
    pub(crate) fn stop(self) {
        self.stops.send_replace(true);
        if let Some(task) = self.task {
            let ended = async { tokio::time::timeout(STOP_TIMEOUT, task).await };
            if self.runtime.block_on(ended).is_err() {
                tracing::debug!("requests were cut off at the end");
            }
        }
        self.runtime.shutdown_background();
    }
}
