//! The HTTP side of the daemon: a runtime of its own, whose threads hold no capability.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::feed::Outlet;
use crate::agent::UplinkStatus;
use crate::api::Api;
use crate::api::serve::{Listen, Server, TlsFiles};
use crate::api::service::{self, Inlet, Settings};
use crate::auth::Access;
use crate::capture::Keeping;
use crate::config::Config;
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
            task: None,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Folds the feed and serves.
    pub(crate) fn start(&mut self, outlet: Outlet, keeping: Option<Keeping>) -> anyhow::Result<()> {
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
        };
        let api = Arc::new(Api::new(settings, outlook, daemon));
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
