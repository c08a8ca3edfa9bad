//! Which files are the driver of a GPU, where no CDI file says it? Lists, as data, and what of them this machine has.
//!
//! Libraries are known by the names that the host's dynamic loader has in its cache, whatever version follows. Of AMD's only what
//! belongs to the kernel's driver: the rest of ROCm is the image's, and of the host's release it breaks.

use super::hook::Hook;
use super::ld_cache::Cache;
use super::{Edits, Mount};

/// Where the libraries are in the container: a directory of ours, whatever the distributions of host and image.
pub const PLACE: &str = "/ch/gpu/lib";

struct Driver {
    name: &'static str,
    /// Without the first of these there is no such driver.
    libraries: &'static [&'static str],
    /// Of an image that has its own, these are not taken.
    if_missing: &'static [&'static str],
    device: &'static str,
    programs: &'static [&'static str],
    files: &'static [&'static str],
}

const DRIVERS: &[Driver] = &[
    Driver {
        name: "NVIDIA driver",
        libraries: &[
            "libcuda",
            "libcudadebugger",
            "libEGL_nvidia",
            "libGLESv1_CM_nvidia",
            "libGLESv2_nvidia",
            "libGLX_nvidia",
            "libnvcuvid",
            "libnvidia-allocator",
            "libnvidia-api",
            "libnvidia-cbl",
            "libnvidia-cfg",
            "libnvidia-compiler",
            "libnvidia-egl-gbm",
            "libnvidia-egl-wayland",
            "libnvidia-egl-xcb",
            "libnvidia-egl-xlib",
            "libnvidia-eglcore",
            "libnvidia-encode",
            "libnvidia-fatbinaryloader",
            "libnvidia-fbc",
            "libnvidia-glcore",
            "libnvidia-glsi",
            "libnvidia-glvkspirv",
            "libnvidia-gpucomp",
            "libnvidia-ifr",
            "libnvidia-ml",
            "libnvidia-ngx",
            "libnvidia-nscq",
            "libnvidia-nvvm",
            "libnvidia-nvvm70",
            "libnvidia-opencl",
            "libnvidia-opticalflow",
            "libnvidia-pkcs11",
            "libnvidia-pkcs11-openssl3",
            "libnvidia-ptxjitcompiler",
            "libnvidia-rtcore",
            "libnvidia-sandboxutils",
            "libnvidia-tileiras",
            "libnvidia-tls",
            "libnvidia-vksc-core",
            "libnvoptix",
            "libvdpau_nvidia",
        ],
        if_missing: &[],
        device: "/dev/nvidiactl",
        programs: &[
            "nvidia-smi",
            "nvidia-debugdump",
            "nvidia-persistenced",
            "nvidia-cuda-mps-control",
            "nvidia-cuda-mps-server",
        ],
        files: &[
            "/etc/OpenCL/vendors/nvidia.icd",
            "/etc/vulkan/icd.d/nvidia_icd.json",
            "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
            "/run/nvidia-fabricmanager/socket",
            "/run/nvidia-persistenced/socket",
            "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
            "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
            "/usr/share/egl/egl_external_platform.d/20_nvidia_xcb.json",
            "/usr/share/egl/egl_external_platform.d/20_nvidia_xlib.json",
            "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
            "/usr/share/nvidia/nvoptix.bin",
            "/usr/share/vulkan/icd.d/nvidia_icd.json",
            "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
        ],
    },
    Driver {
        name: "AMD driver",
        libraries: &[],
        if_missing: &["libamdocl64", "libamdocl12cl64", "libdrm", "libdrm_amdgpu"],
        device: "/dev/kfd",
        programs: &[],
        files: &["/etc/OpenCL/vendors/amdocl64.icd", "/usr/share/libdrm/amdgpu.ids"],
    },
];

/// Directories of programs, in the order in which they are looked through.
const BIN: &[&str] = &["/usr/bin", "/bin", "/usr/local/bin"];

/// What this machine has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub names: Vec<String>,
    pub edits: Edits,
    /// Names of libraries that an image may have itself, and then uses.
    pub if_missing: Vec<String>,
}

pub fn find(cache: &Cache, exists: &dyn Fn(&str) -> bool) -> Found {
    let mut found = Found::default();
    for driver in DRIVERS {
        let names = |bases: &[&str]| {
            let mut names: Vec<String> = cache.entries.iter().map(|entry| entry.name.clone()).collect();
            names.retain(|name| bases.iter().any(|base| is_version_of(name, base)) && cache.find(name).is_some());
            names.dedup();
            names
        };
        let is_there = match driver.libraries.first() {
            Some(main) => !names(&[main]).is_empty(),
            None => exists(driver.device),
        };
        if !is_there {
            continue;
        }
        found.names.push(driver.name.to_owned());
        let optional = names(driver.if_missing);
        for name in names(driver.libraries).iter().chain(&optional) {
            let Some(host) = cache.find(name) else { continue };
            add(&mut found.edits, host, &format!("{PLACE}/{name}"));
        }
        found.if_missing.extend(optional);
        for program in driver.programs {
            let places = BIN.iter().map(|bin| format!("{bin}/{program}"));
            if let Some(host) = places.into_iter().find(|path| exists(path)) {
                add(&mut found.edits, &host, &format!("/usr/bin/{program}"));
            }
        }
        for file in driver.files.iter().filter(|file| exists(file)) {
            add(&mut found.edits, file, file);
        }
        let node = super::Node { host: driver.device.to_owned(), path: driver.device.to_owned() };
        found.edits.nodes.push(node);
    }
    if !found.edits.mounts.is_empty() {
        found.edits.hooks.push(Hook::UpdateCache { folders: vec![PLACE.to_owned()] });
    }
    found
}

fn add(edits: &mut Edits, host: &str, path: &str) {
    edits.mounts.push(Mount { host: host.to_owned(), path: path.to_owned(), read_only: true });
}

fn is_version_of(name: &str, base: &str) -> bool {
    let rest = name.strip_prefix(base).and_then(|rest| rest.strip_prefix(".so"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ld_cache::Entry;

    #[test]
    fn what_a_machine_has() {
        let check = |names: &[&str], files: &[&str], want: &[&str], mounts: &[&str]| {
            let entries = names.iter().map(|name| Entry::new(*name, format!("/l/{name}"))).collect();
            let mut cache = Cache::default();
            cache.put_first(entries);
            let found = find(&cache, &|path| files.contains(&path));
            assert_eq!(found.names, want, "{names:?}");
            let paths: Vec<_> = found.edits.mounts.iter().map(|m| format!("{} {}", m.host, m.path)).collect();
            assert_eq!(paths, mounts, "{names:?}");
            assert_eq!(found.edits.hooks.is_empty(), mounts.is_empty());
        };
        check(&["libc.so.6", "libdrm.so.2"], &["/usr/bin/nvidia-smi"], &[], &[]);
        check(
            &["libc.so.6", "libcuda.so.1", "libcudart.so.12", "libnvidia-ml.so.1", "libdrm.so.2"],
            &["/bin/nvidia-smi", "/etc/OpenCL/vendors/nvidia.icd"],
            &["NVIDIA driver"],
            &[
                "/l/libcuda.so.1 /ch/gpu/lib/libcuda.so.1",
                "/l/libnvidia-ml.so.1 /ch/gpu/lib/libnvidia-ml.so.1",
                "/bin/nvidia-smi /usr/bin/nvidia-smi",
                "/etc/OpenCL/vendors/nvidia.icd /etc/OpenCL/vendors/nvidia.icd",
            ],
        );
        check(&[], &["/dev/kfd"], &["AMD driver"], &[]);
        check(
            &["libdrm.so.2", "libdrm_amdgpu.so.1", "libhsa-runtime64.so.1"],
            &["/dev/kfd"],
            &["AMD driver"],
            &["/l/libdrm.so.2 /ch/gpu/lib/libdrm.so.2", "/l/libdrm_amdgpu.so.1 /ch/gpu/lib/libdrm_amdgpu.so.1"],
        );
        // Of another processor.
        let mut cache = Cache::default();
        cache.put_first(vec![Entry { flags: 3, ..Entry::new("libcuda.so.1", "/l32/libcuda.so.1") }]);
        assert_eq!(find(&cache, &|_| false), Found::default());
    }
}
