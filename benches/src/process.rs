//! Child processes, and what the kernel says of them and of the machine.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::de::DeserializeOwned;

/// Clock ticks a second in /proc, a constant of the kernel's interface.
const TICKS: f64 = 100.0;
/// The number of a log's last bytes that are shown.
const LAST: usize = 2000;

/// A network namespace by name; none is the harness's own.
pub(crate) type NetNamespace<'a> = Option<&'a str>;

/// A child that ends with this value, and with this process however that ends.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: Child,
    log: PathBuf,
}

impl ChildProcess {
    /// Starts a program; what it says goes to `log`.
    pub(crate) fn start(
        net: NetNamespace<'_>,
        log: &Path,
        program: &Path,
        args: &[&str],
    ) -> Result<Self> {
        let file = File::create(log)?;
        let mut command = tied(net, program, args)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: command.spawn()?, log: log.into() })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails where it has ended, with its last words.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}): {}", self.log.display(), self.last_words());
        }
        Ok(())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LAST)..]).into_owned()
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// This program's own hidden subcommand with one argument in JSON, in a namespace.
fn ourselves(
    net: NetNamespace<'_>,
    subcommand: &str,
    argument: &impl serde::Serialize,
) -> Result<Command> {
    let argument = serde_json::to_string(argument)?;
    let mut command = tied(net, &std::env::current_exe()?, &[subcommand, &argument])?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// Runs this program's own subcommand to its end and reads what it found out.
pub(crate) fn ask<T: DeserializeOwned>(
    net: NetNamespace<'_>,
    subcommand: &str,
    argument: &impl serde::Serialize,
) -> Result<T> {
    let child = ourselves(net, subcommand, argument)?.spawn()?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "{subcommand} failed ({}), see above", out.status);
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// Connections that a child keeps open.
#[derive(Debug)]
pub(crate) struct HeldConnections {
    child: Child,
    stdin: Option<ChildStdin>,
    _stdout: BufReader<ChildStdout>,
}

impl HeldConnections {
    /// Opens them.
    pub(crate) fn open(net: NetNamespace<'_>, hold: &crate::load::Hold) -> Result<Self> {
        let mut child = ourselves(net, "hold", hold)?.spawn()?;
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let held = Self { child, stdin, _stdout: stdout };
        ensure!(line == "held\n", "connections could not be opened, see above");
        Ok(held)
    }

    /// Lets them end, and says whether all was well.
    pub(crate) fn release(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "held connections did not survive, see above");
        Ok(())
    }
}

impl Drop for HeldConnections {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A command that runs in `net` and is killed when this process ends: the kernel does it, since the
/// child asks for that before it becomes the program (see [`become_program`]).
fn tied(net: NetNamespace<'_>, program: &Path, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["tied", "--net", net.unwrap_or_default(), "--"]).arg(program).args(args);
    Ok(command)
}

/// The other half of [`tied`]; returns only where it fails.
pub(crate) fn become_program(net: &str, command: &[String]) -> Result<std::convert::Infallible> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if !net.is_empty() {
        let namespace = File::open(Path::new("/run/netns").join(net))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let (program, args) = command.split_first().context("no program")?;
    Err(Command::new(program).args(args).exec()).with_context(|| program.clone())
}

/// Runs a program to its end and gives what it printed.
pub(crate) fn run(program: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new(program).args(args).output();
    let out = out.with_context(|| format!("{}", program.display()))?;
    let error = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{} {}: {}", program.display(), args.join(" "), error.trim());
    Ok(String::from_utf8(out.stdout)?)
}

/// The path of a program on the PATH.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(system);
    places.find_map(|folder| Some(folder.join(program)).filter(|file| file.is_file()))
}

/// Lets this process and its children open as many descriptors as they may.
pub(crate) fn raise_descriptors() -> Result<()> {
    let most = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?)
}

/// The number of connections that a proxy can hold, each of which takes two descriptors.
pub(crate) fn most_connections() -> usize {
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(200) / 2
}

/// The fields of /proc/PID/stat from utime on: utime, stime, cutime, cstime, …
fn times(stat: &str) -> Option<Vec<f64>> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.filter_map(|field| field.parse::<f64>().ok()).map(|ticks| ticks / TICKS).collect())
}

/// CPU seconds that these processes have used so far.
pub(crate) fn cpu_of(pids: &[u32]) -> f64 {
    let one = |pid: &u32| {
        let times = times(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(times.first()? + times.get(1)?)
    };
    pids.iter().filter_map(one).sum()
}

/// Resident bytes of a process.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    kilobytes(&status, "VmRSS:")
}

/// Bytes of kernel objects.
pub(crate) fn slab() -> Result<f64> {
    kilobytes(&fs::read_to_string("/proc/meminfo")?, "Slab:")
}

fn kilobytes(text: &str, key: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number =
        line.and_then(|line| line.split_whitespace().next()).with_context(|| key.to_owned());
    Ok(number?.parse::<f64>()? * 1024.0)
}

/// CPU seconds so far: of the machine, and of this process, its children past and present, and the
/// kernel's own work for their packets.
pub(crate) fn machine() -> Result<(f64, f64)> {
    let mut text = String::new();
    File::open("/proc/stat")?.read_to_string(&mut text)?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy = fields.iter().take(8).sum::<f64>() - fields[3] - fields[4];
    let own = times(&fs::read_to_string("/proc/self/stat")?).context("/proc/self/stat")?;
    let mut ours: f64 = own.iter().take(4).sum();
    let parent = std::process::id().to_string();
    for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let child = after.split_whitespace().nth(1) == Some(&parent);
        if child || stat.contains("(ksoftirqd/") {
            ours += times(&stat).unwrap_or_default().iter().take(2).sum::<f64>();
        }
    }
    Ok((busy / TICKS, ours))
}
