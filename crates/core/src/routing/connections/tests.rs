use super::*;
use proptest::prelude::*;

const OLD: [u8; 16] = [1; 16];
const NEW: [u8; 16] = [2; 16];

fn candidate(boot: [u8; 16], dialled: bool, slot: u64) -> ConnectionCandidate {
    ConnectionCandidate {
        boot,
        class: Class::Interactive,
        dialled,
        slot,
        worker: 0,
        draining: false,
        silent: false,
        streams: 0,
    }
}

#[test]
fn both_directions_lanes_and_slots_live_side_by_side() {
    let bulk = ConnectionCandidate { class: Class::Bulk, ..candidate(NEW, true, 0) };
    let all = [candidate(NEW, true, 0), candidate(NEW, false, 0), candidate(NEW, true, 1), bulk];
    assert_eq!(unusable_reasons(&all), [None; 4]);
}

#[test]
fn a_later_one_of_the_same_kind_takes_the_earliers_place() {
    let all = [candidate(NEW, true, 0), candidate(NEW, true, 1), candidate(NEW, true, 0)];
    assert_eq!(unusable_reasons(&all), [Some(Unusable::Replaced), None, None]);
}

#[test]
fn a_new_boot_ends_new_streams_to_the_old_until_it_is_gone_itself() {
    let both = [candidate(OLD, true, 0), candidate(OLD, false, 0), candidate(NEW, false, 0)];
    assert_eq!(
        unusable_reasons(&both),
        [Some(Unusable::OlderBoot), Some(Unusable::OlderBoot), None]
    );
    assert_eq!(unusable_reasons(&both[..2]), [None, None]);
}

#[test]
fn a_draining_newcomer_does_not_end_what_was_there() {
    // An old process that drains may still be dialling while its successor serves.
    let leaving = ConnectionCandidate { draining: true, ..candidate(OLD, false, 0) };
    assert_eq!(
        unusable_reasons(&[candidate(NEW, false, 0), leaving]),
        [None, Some(Unusable::Draining)]
    );
    assert_eq!(
        unusable_reasons(&[candidate(OLD, false, 0), leaving]),
        [None, Some(Unusable::Draining)]
    );
}

#[test]
fn of_two_processes_that_both_go_on_the_one_that_came_last_stays_the_newer() {
    let (old, new) = (candidate(OLD, true, 0), candidate(NEW, true, 0));
    let again = candidate(OLD, false, 0);
    let older = Some(Unusable::OlderBoot);
    assert_eq!(unusable_reasons(&[old, new, again]), [older, None, older]);
    let unused = ConnectionCandidate { draining: true, ..new };
    let all = [old, unused, again, candidate(NEW, false, 0)];
    assert_eq!(unusable_reasons(&all), [older, Some(Unusable::Draining), older, None]);
}

#[test]
fn a_silent_connection_takes_nothing_and_holds_up_no_other() {
    let silent = |dialled| ConnectionCandidate { silent: true, ..candidate(OLD, dialled, 0) };
    assert_eq!(unusable_reasons(&[silent(true), silent(false)]), [Some(Unusable::Silent); 2]);
    assert_eq!(
        preference_order(&[silent(true), candidate(OLD, false, 0)], Class::Interactive, 0, 0),
        [1]
    );
    assert_eq!(free_slot(&[silent(true)], Class::Interactive, 0, 1, 1), Some(0));
    let older = candidate(NEW, true, 0);
    assert_eq!(
        preference_order(&[older, silent(true)], Class::Interactive, 0, 0),
        [0],
        "whatever its boot"
    );
}

#[test]
fn a_stream_takes_its_lane_then_what_we_dialled_then_its_worker_then_the_least_busy() {
    let at = |class, worker, streams, slot| ConnectionCandidate {
        class,
        worker,
        streams,
        ..candidate(NEW, true, slot)
    };
    let all = [
        at(Class::Bulk, 1, 0, 0),
        at(Class::Interactive, 0, 0, 1),
        at(Class::Interactive, 1, 9, 2),
        at(Class::Interactive, 1, 4, 3),
    ];
    for random in 0..9 {
        assert_eq!(preference_order(&all, Class::Interactive, 1, random), [3, 2, 1, 0]);
        assert_eq!(preference_order(&all, Class::Bulk, 0, random)[0], 0);
    }
    let accepted = ConnectionCandidate { dialled: false, ..at(Class::Interactive, 1, 0, 0) };
    assert_eq!(
        preference_order(&[accepted, all[1]], Class::Interactive, 1, 0),
        [1, 0],
        "ours first"
    );
    assert!(preference_order(&[], Class::Bulk, 0, 7).is_empty());
}

#[test]
fn ties_are_drawn() {
    let all = [candidate(NEW, true, 0), candidate(NEW, true, 1)];
    let first = |random| preference_order(&all, Class::Interactive, 0, random)[0];
    assert_ne!(first(0), first(1));
}

#[test]
fn slots_are_the_workers_own_and_a_lost_ones_is_taken_again() {
    let free =
        |all: &[ConnectionCandidate], worker| free_slot(all, Class::Interactive, worker, 4, 2);
    assert_eq!(free(&[], 3), Some(3));
    let one = [candidate(NEW, true, 3)];
    assert_eq!((free(&one, 3), free(&one, 2)), (Some(7), Some(2)));
    let two = [candidate(NEW, true, 3), candidate(NEW, true, 7)];
    assert_eq!(free(&two, 3), None, "no more than the limit");
    let leaving = [ConnectionCandidate { draining: true, ..candidate(NEW, true, 3) }];
    assert_eq!(free(&leaving, 3), Some(3));
    let theirs = [candidate(NEW, false, 3)];
    assert_eq!(free(&theirs, 3), Some(3), "the peer's slots are the peer's");
}

/// The definition of `unusable_reasons` in the words of its reasons, however slow.
fn passed_in_words(all: &[ConnectionCandidate]) -> Vec<Option<Unusable>> {
    let since = |boot| all.iter().position(|c| c.boot == boot);
    let living = all.iter().filter(|c| c.is_alive()).map(|c| c.boot);
    let newest = living.max_by_key(|boot| since(*boot));
    let like = |c: &ConnectionCandidate| (c.boot, c.class, c.dialled, c.slot);
    let judge = |(n, c): (usize, &ConnectionCandidate)| match () {
        () if c.draining => Some(Unusable::Draining),
        () if c.silent => Some(Unusable::Silent),
        () if Some(c.boot) != newest => Some(Unusable::OlderBoot),
        () if all[n + 1..].iter().any(|l| l.is_alive() && like(l) == like(c)) => {
            Some(Unusable::Replaced)
        }
        () => None,
    };
    all.iter().enumerate().map(judge).collect()
}

proptest! {
    #[test]
    fn one_pass_finds_what_comparing_each_pair_would(
        all in proptest::collection::vec((0u8..3, any::<bool>(), 0u64..3, 0u8..5), 0..20),
    ) {
        let of = |(boot, dialled, slot, state)| ConnectionCandidate {
            draining: state == 1,
            silent: state == 2,
            ..candidate([boot; 16], dialled, slot)
        };
        let all: Vec<ConnectionCandidate> = all.into_iter().map(of).collect();
        prop_assert_eq!(unusable_reasons(&all), passed_in_words(&all));
    }

    /// Whatever there is: as long as something neither drains nor is silent, something takes new streams.
    #[test]
    fn something_is_always_usable(all in proptest::collection::vec((0u8..3, any::<bool>(), 0u64..3, 0u8..4), 1..9)) {
        let all: Vec<ConnectionCandidate> = all
            .into_iter()
            .map(|(boot, dialled, slot, state)| ConnectionCandidate {
                draining: state == 1,
                silent: state == 2,
                ..candidate([boot; 16], dialled, slot)
            })
            .collect();
        let usable = preference_order(&all, Class::Bulk, 0, 0);
        prop_assert_eq!(usable.is_empty(), all.iter().all(|c| c.draining || c.silent));
        let boots: BTreeSet<_> = usable.iter().map(|n| all[*n].boot).collect();
        prop_assert!(boots.len() <= 1, "streams go to one process of a node");
    }
}
