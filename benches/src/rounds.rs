//! The run: rounds in which every subject has its turn, and what is said at the end.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::BenchOptions;
use crate::figures::{self, Figure, QUIET, Sample};
use crate::process::{machine, most_connections, raise_descriptors};
use crate::report;
use crate::scenario::{self, BedKind, LoadExtent, Scenario};
use crate::subject::{Programs, Subject, SubjectKind};
use crate::test_bed::{TestBed, wanlink};

/// The idle connections of a load: as many as a node takes from one peer by default, less a few.
const IDLE: usize = 8000;

struct Bench {
    /// Subjects that are up; before the places, so that they end first.
    standing: Vec<(BedKind, Subject)>,
    places: Vec<(BedKind, TestBed)>,
    programs: Programs,
    extent: LoadExtent,
    smoke: bool,
    samples: Vec<Sample>,
    /// All that went wrong.
    failures: Vec<String>,
}

/// Runs what the options say; false where something failed.
pub(crate) fn run(options: &BenchOptions) -> Result<bool> {
    let wanted = |row: &str| options.rows.is_empty() || options.rows.iter().any(|r| r == row);
    for row in &options.rows {
        ensure!(figures::ALL.iter().any(|figure| figure.row == row), "there is no row {row}");
    }
    ensure!(options.seconds > 0.0 && options.rounds > 0, "there is nothing to measure");
    raise_descriptors()?;
    let (rounds, extent) = size(options);
    let mut bench = Bench {
        standing: Vec::new(),
        places: vec![(BedKind::Loopback, TestBed::loopback()?)],
        programs: Programs::find()?,
        extent,
        smoke: options.smoke,
        samples: Vec::new(),
        failures: Vec::new(),
    };
    let figures: Vec<&Figure> = figures::ALL.iter().filter(|f| wanted(f.row)).collect();
    let wan = |s: Scenario| s.place() != BedKind::Loopback;
    let mut scenarios: Vec<Scenario> = scenario::ALL
        .into_iter()
        .filter(|scenario| figures.iter().any(|figure| figure.scenario == *scenario))
        .filter(|scenario| !(options.smoke && wan(*scenario)))
        .collect();
    if scenarios.iter().any(|scenario| wan(*scenario))
        && let Err(why) = bench.lay_cables(options)
    {
        skip("rows over a WAN", &format!("{why:#}"), &mut bench.failures);
        scenarios.retain(|scenario| !wan(*scenario));
    }
    for kind in [SubjectKind::HaproxyTcp, SubjectKind::HaproxyMtls]
        .into_iter()
        .filter(|k| !bench.programs.have(*k))
    {
        skip(kind.name(), "haproxy is missing (apt-get install haproxy)", &mut bench.failures);
    }
    let began = Instant::now();
    for round in 0..rounds {
        for scenario in &scenarios {
            bench.turn(round, *scenario);
        }
        eprintln!("round {} of {rounds}: {} s", round + 1, began.elapsed().as_secs());
    }
    let wanted = figures.iter().filter(|figure| scenarios.contains(&figure.scenario)).count();
    bench.report(options, &figures, wanted)?;
    Ok(bench.failures.is_empty())
}

/// The number of rounds, and the size of each load.
fn size(options: &BenchOptions) -> (u32, LoadExtent) {
    if options.smoke {
        (1, LoadExtent { seconds: 0.3, lossy_seconds: 0.3, idle: 200 })
    } else {
        let seconds = options.seconds;
        (
            options.rounds,
            LoadExtent {
                seconds,
                lossy_seconds: 4.0 * seconds,
                idle: most_connections().min(IDLE),
            },
        )
    }
}

/// Says what cannot run here and why; a failure where nothing may be missing.
fn skip(what: &str, why: &str, failures: &mut Vec<String>) {
    println!("SKIP {what}: {why}");
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        failures.push(format!("{what}: {why} (nothing may be skipped in CI)"));
    }
}

impl Bench {
    /// Prints the report of these figures, of which `wanted` should have a number, and writes it where it is asked for.
    fn report(&mut self, options: &BenchOptions, figures: &[&Figure], wanted: usize) -> Result<()> {
        let how = format!(
            "{}; {} rounds, {} s a load{}",
            report::machine(),
            size(options).0,
            self.extent.seconds,
            if options.smoke { " (a smoke test: these numbers mean nothing)" } else { "" },
        );
        let lines: Vec<_> = figures
            .iter()
            .filter_map(|figure| Some((*figure, figure.spread(&self.samples)?)))
            .collect();
        if self.programs.have(SubjectKind::HaproxyTcp) && lines.len() < wanted {
            self.failures.push(format!("{} of {wanted} figures have a number", lines.len()));
        }
        println!("{how}\n\n{}", report::tables(&lines, &self.samples));
        if let Some(folder) = &options.out {
            report::write(folder, &lines, &self.samples, &how)?;
        }
        for failure in &self.failures {
            println!("FAILED {failure}");
        }
        Ok(())
    }

    fn lay_cables(&mut self, options: &BenchOptions) -> Result<()> {
        let wanlink = wanlink(options.wanlink.as_deref())?;
        self.places.push((BedKind::Wan, TestBed::wan(&wanlink, "0")?));
        self.places.push((BedKind::LossyWan, TestBed::wan(&wanlink, "0.01")?));
        Ok(())
    }

    /// Runs one round of one scenario. Every second round runs backwards, so that none is always first.
    fn turn(&mut self, round: u32, scenario: Scenario) {
        let have = |kind: &&SubjectKind| self.programs.have(**kind);
        let mut kinds: Vec<SubjectKind> =
            scenario.subjects().iter().filter(have).copied().collect();
        if round % 2 == 1 {
            kinds.reverse();
        }
        for kind in kinds {
            match self.measure(round, scenario, kind) {
                Ok(sample) => self.samples.push(sample),
                Err(error) => {
                    let what = format!("{scenario:?} of {}: {error:#}", kind.name());
                    eprintln!("{what}");
                    self.failures.push(what);
                    // What it left behind must not spoil what comes next.
                    self.standing.retain(|(_, subject)| subject.kind != kind);
                }
            }
        }
    }

    fn measure(&mut self, round: u32, scenario: Scenario, kind: SubjectKind) -> Result<Sample> {
        let at = scenario.place();
        let place = self.places.iter().find(|(place, _)| *place == at);
        let (_, place) = place.context("there is no such place")?;
        let standing = |(place, subject): &(BedKind, Subject)| *place == at && subject.kind == kind;
        let own;
        let subject = if scenario.wants_fresh() {
            own = Subject::start(kind, place, &self.programs)?;
            &own
        } else {
            if !self.standing.iter().any(standing) {
                self.standing.push((at, Subject::start(kind, place, &self.programs)?));
            }
            let found = self.standing.iter().find(|entry| standing(entry));
            &found.context("it was started")?.1
        };
        let (began, (busy, ours)) = (Instant::now(), machine()?);
        let values = scenario.run(place, subject, self.extent)?;
        let (busy_after, ours_after) = machine()?;
        let foreign = (busy_after - busy) - (ours_after - ours);
        let foreign = (foreign / began.elapsed().as_secs_f64()).max(0.0);
        if foreign > QUIET && !self.smoke {
            eprintln!(
                "round {}, {scenario:?} of {}: others took {foreign:.2} cores",
                round + 1,
                kind.name()
            );
        }
        Ok(Sample { round, scenario, subject: kind, values, foreign })
    }
}
