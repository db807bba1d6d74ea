//! What a cgroup path tells of a process: its systemd unit, its container, its pod.
//!
//! Systemd writes units as folders; container runtimes write the container's id (64 hexadecimal
//! digits) as a folder of its own (the `cgroupfs` driver) or as a scope `runtime-ID.scope` (the
//! `systemd` driver). Kubernetes puts the pod above it, as `podUID` or as `…-podUID.slice` with
//! `_` for `-`. Version 1 and version 2 of cgroups differ in what is mounted, not in these paths.

/// Who runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// containerd through its CRI plugin, or nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// The path names a container, but not who runs it.
    Unknown,
}

/// What a cgroup path tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload<'a> {
    /// Who runs the container.
    pub runtime: Option<Runtime>,
    /// The container's id.
    pub container_id: Option<&'a str>,
    /// The pod's uid as the path writes it: with `_` for `-` under the systemd driver.
    pub pod_uid: Option<&'a str>,
    /// The systemd service, without its suffix. Of services in services (a user's manager), the
    /// innermost; scopes are not services.
    pub unit: Option<&'a str>,
}

impl<'a> Workload<'a> {
    /// Reads the path of `/proc/PID/cgroup`, what follows its second colon. What it does not know
    /// stays `None`.
    #[must_use]
    pub fn parse(path: &'a str) -> Self {
        let mut workload = Self::default();
        let mut parent = "";
        for folder in path.split('/') {
            workload.read(parent, folder);
            parent = folder;
        }
        if workload.container_id.is_none() {
            workload.runtime = None;
        }
        workload
    }

    fn read(&mut self, parent: &'a str, folder: &'a str) {
        if let Some(unit) = folder.strip_suffix(".service") {
            // A user's manager says who, not what; a container's own units are the container's.
            if !unit.starts_with("user@") && self.container_id.is_none() {
                self.unit = Some(unit);
            }
        } else if let Some(scope) = folder.strip_suffix(".scope") {
            self.read_scope(scope);
        } else if let Some(slice) = folder.strip_suffix(".slice") {
            if slice.starts_with("kubepods")
                && let Some((_, uid)) = slice.rsplit_once("-pod")
            {
                self.pod_uid = Some(uid);
            }
        } else if let Some(uid) = folder.strip_prefix("pod").filter(|uid| is_pod_uid(uid)) {
            self.pod_uid = Some(uid);
        } else {
            self.read_plain(parent, folder);
        }
    }

    /// `docker-ID`, `cri-containerd-ID`, `crio-ID`, `libpod-ID`, `nerdctl-ID`.
    fn read_scope(&mut self, scope: &'a str) {
        let Some((prefix, id)) = scope.rsplit_once('-') else {
            return;
        };
        if !is_container_id(id) || prefix.ends_with("-conmon") {
            return;
        }
        let runtime = match prefix {
            "docker" => Runtime::Docker,
            "cri-containerd" | "containerd" | "nerdctl" => Runtime::Containerd,
            "crio" => Runtime::CriO,
            "libpod" => Runtime::Podman,
            _ => Runtime::Unknown,
        };
        self.set_container(id, runtime);
    }

    /// `/docker/ID`, `/kubepods/burstable/podUID/ID`, `/libpod_parent/libpod-ID`, `crio-ID`,
    /// `/system.slice/containerd.service/kubepods-….slice:cri-containerd:ID`.
    fn read_plain(&mut self, parent: &'a str, folder: &'a str) {
        if let Some((slice, rest)) = folder.split_once(':')
            && let Some((runtime, id)) = rest.split_once(':')
        {
            self.read_colons(slice, runtime, id);
            return;
        }
        let (runtime, id) = if let Some(id) = folder.strip_prefix("crio-") {
            (Runtime::CriO, id)
        } else if let Some(id) = folder.strip_prefix("libpod-") {
            (Runtime::Podman, id)
        } else {
            let runtime = match parent {
                "docker" => Runtime::Docker,
                "libpod_parent" | "libpod" => Runtime::Podman,
                "default" | "k8s.io" | "moby" => Runtime::Containerd,
                _ => Runtime::Unknown,
            };
            (runtime, folder)
        };
        if is_container_id(id) {
            self.set_container(id, runtime);
        }
    }

    /// The systemd notation given to a runtime that uses the `cgroupfs` driver.
    fn read_colons(&mut self, slice: &'a str, runtime: &'a str, id: &'a str) {
        self.read("", slice);
        if is_container_id(id) {
            let runtime = match runtime {
                "docker" => Runtime::Docker,
                "cri-containerd" => Runtime::Containerd,
                "crio" => Runtime::CriO,
                _ => Runtime::Unknown,
            };
            self.set_container(id, runtime);
        }
    }

    /// The innermost container counts: of Docker in Docker, the one the process is in.
    fn set_container(&mut self, id: &'a str, runtime: Runtime) {
        self.container_id = Some(id);
        self.runtime = Some(runtime);
        self.unit = None;
    }
}

fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A UUID, or the hash that a static pod has in its place.
fn is_pod_uid(text: &str) -> bool {
    matches!(text.len(), 32 | 36)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f2a91bc02de4c1b8f0e6d5a7c9b1e2f3a4d5c6b7e8f90a1b2c3d4e5f60718ab";
    const UID: &str = "2c48913c-b29f-4f6e-8f0a-1d2b3c4d5e6f";
    const UID_SLICE: &str = "2c48913c_b29f_4f6e_8f0a_1d2b3c4d5e6f";

    fn unit(unit: &str) -> Workload<'_> {
        Workload {
            unit: Some(unit),
            ..Workload::default()
        }
    }

    fn container(runtime: Runtime, pod_uid: Option<&'static str>) -> Workload<'static> {
        Workload {
            runtime: Some(runtime),
            container_id: Some(ID),
            pod_uid,
            unit: None,
        }
    }

    #[test]
    fn paths_of_all_runtimes_are_read() {
        let user = "/user.slice/user-1000.slice/user@1000.service";
        let cases: Vec<(String, Workload<'_>)> = vec![
            ("".into(), Workload::default()),
            ("/".into(), Workload::default()),
            ("/init.scope".into(), Workload::default()),
            ("/system.slice/nginx.service".into(), unit("nginx")),
            (
                "/system.slice/system-getty.slice/getty@tty1.service".into(),
                unit("getty@tty1"),
            ),
            (
                "/system.slice/postgresql.service/worker".into(),
                unit("postgresql"),
            ),
            (
                "/user.slice/user-1000.slice/session-3.scope".into(),
                Workload::default(),
            ),
            (format!("{user}/init.scope"), Workload::default()),
            (format!("{user}/app.slice/sync.service"), unit("sync")),
            (format!("/docker/{ID}"), container(Runtime::Docker, None)),
            (
                format!("/docker/{ID}/system.slice/a.service"),
                container(Runtime::Docker, None),
            ),
            (
                format!("/system.slice/docker-{ID}.scope"),
                container(Runtime::Docker, None),
            ),
            (
                format!("/system.slice/docker-{ID}.scope/init.scope"),
                container(Runtime::Docker, None),
            ),
            (
                format!("/default/{ID}"),
                container(Runtime::Containerd, None),
            ),
            (
                format!("/system.slice/nerdctl-{ID}.scope"),
                container(Runtime::Containerd, None),
            ),
            (
                format!("/machine.slice/libpod-{ID}.scope"),
                container(Runtime::Podman, None),
            ),
            (
                format!("/machine.slice/libpod-{ID}.scope/container"),
                container(Runtime::Podman, None),
            ),
            (
                format!("/machine.slice/libpod-conmon-{ID}.scope"),
                Workload::default(),
            ),
            (
                format!("/libpod_parent/libpod-{ID}"),
                container(Runtime::Podman, None),
            ),
            (
                format!("{user}/user.slice/libpod-{ID}.scope/container"),
                container(Runtime::Podman, None),
            ),
            (
                format!("/kubepods/pod{UID}/{ID}"),
                container(Runtime::Unknown, Some(UID)),
            ),
            (
                format!("/kubepods/besteffort/pod{UID}/{ID}"),
                container(Runtime::Unknown, Some(UID)),
            ),
            (
                format!("/kubepods/burstable/pod{UID}/crio-{ID}"),
                container(Runtime::CriO, Some(UID)),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/\
                     kubepods-burstable-pod{UID_SLICE}.slice/cri-containerd-{ID}.scope"
                ),
                container(Runtime::Containerd, Some(UID_SLICE)),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{UID_SLICE}.slice/crio-{ID}.scope"),
                container(Runtime::CriO, Some(UID_SLICE)),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{UID_SLICE}.slice/docker-{ID}.scope"),
                container(Runtime::Docker, Some(UID_SLICE)),
            ),
            (
                format!(
                    "/system.slice/containerd.service/\
                     kubepods-besteffort-pod{UID_SLICE}.slice:cri-containerd:{ID}"
                ),
                container(Runtime::Containerd, Some(UID_SLICE)),
            ),
            (
                format!("/docker/{ID}/kubelet/kubepods/pod{UID}/{ID}"),
                container(Runtime::Unknown, Some(UID)),
            ),
            ("/docker/not-an-id".into(), Workload::default()),
            ("a::b:::".into(), Workload::default()),
        ];
        for (path, expected) in &cases {
            assert_eq!(Workload::parse(path), *expected, "{path}");
        }
    }
}
