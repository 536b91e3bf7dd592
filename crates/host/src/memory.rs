//! The memory limit of the control group that this process runs in.
//!
//! The kernel kills a process that needs more, so whoever promises memory to others asks first. Both versions of
//! control groups are read, and all groups above the process's own: the least limit holds.

use std::path::{Component, Path};

/// Limits beyond this are none: version 1 says so with a number.
const NO_LIMIT: u64 = 1 << 60;

/// The least limit that holds for this process, in bytes; `None` if there is none, or no group can be read.
#[must_use]
pub fn limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_in(&groups, Path::new("/sys/fs/cgroup"))
}

/// The same by the text of `/proc/self/cgroup`, with the file systems below `mount`.
fn limit_in(groups: &str, mount: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => {
                let both = mount.join("unified");
                let root = if both.is_dir() { both } else { mount.to_owned() };
                least(&root, path, "memory.max")
            }
            _ if controllers.split(',').any(|c| c == "memory") => {
                least(&mount.join("memory"), path, "memory.limit_in_bytes")
            }
            _ => None,
        }
    });
    limits.min()
}

/// The least limit of a group and those above it, up to the root of what is mounted here. A container may see the host's
/// path of a group that is its own root: what is not there is passed over.
fn least(root: &Path, path: &str, file: &str) -> Option<u64> {
    let path = Path::new(path.trim_start_matches('/'));
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let below = if is_plain { path } else { Path::new("") };
    let limits = below.ancestors().filter_map(|group| {
        let text = std::fs::read_to_string(root.join(group).join(file)).ok()?;
        text.trim().parse::<u64>().ok().filter(|limit| *limit < NO_LIMIT)
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn the_least_limit_of_all_groups_above_holds() {
        let root = std::env::temp_dir().join(format!("adit-memory-{}", std::process::id()));
        write(&root, "pods/memory.max", "805306368\n");
        write(&root, "pods/a/memory.max", "max\n");
        write(&root, "memory/x/memory.limit_in_bytes", "268435456\n");
        write(&root, "memory/memory.limit_in_bytes", "9223372036854771712\n");
        let limit = |groups: &str| limit_in(groups, &root);
        assert_eq!(limit("0::/pods/a\n"), Some(768 << 20));
        assert_eq!(limit("5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n"), Some(256 << 20));
        assert_eq!(limit("4:memory:/not/there\n"), None, "the root's is none");
        assert_eq!(limit("0::/../pods\n"), None, "what is above the root is not looked at");
        assert_eq!(limit(""), None);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
