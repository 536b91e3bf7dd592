//! A hostile peer, and a court that says whether its victim held.
//!
//! * [`client`]: a cluster with valid certificates that keeps to nothing else; [`forge`]: packets that no
//!   honest stack sends, and [`first_packet`]; [`attacks`]: what is done with them;
//! * [`stage`]: the victim, an honest cluster and a hostile one on hosts of their own; [`load`]: honest
//!   traffic with its times; [`footprint`]: what the victim costs its machine;
//! * [`judge`]: one attack beside honest traffic, before, during and after.
//!
//! The enemy is a process of its own, so that its processor time is told from the victim's: the program
//! `hostile`, started as `hostile attack NAME`.

/// Says no more of a type than its name: what is in it has nothing to show.
macro_rules! opaque {
    ($($name:ty),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}

opaque!(
    client::Manners,
    client::Enemy,
    first_packet::InitialSealer,
    forge::Forger,
    load::HonestLoad,
    stage::AttackStage,
    judge::Court
);

pub mod attacks;
pub mod client;
pub mod first_packet;
pub mod footprint;
pub mod forge;
pub mod judge;
pub mod load;
pub mod stage;
