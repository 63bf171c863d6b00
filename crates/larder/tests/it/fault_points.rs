//! A plan of faults in the environment is refused by name where the build has no fault points, and taken where it has.

use crate::support::Larder;
use crate::support::program::{User, run};

#[test]
fn p7_a_plan_of_faults_is_refused_by_name_in_a_build_without_fault_points() {
    let larder = Larder::new(User::Same);
    let with_plan = |plan: &str, args: &[&str]| {
        let mut command = larder.command(args);
        command.env("LARDER_FAULTS", plan);
        run(command)
    };
    let keeper = ["keeper", "--", "/bin/true"];
    if cfg!(feature = "inject") {
        with_plan("seed=7 cachefiles.pwrite=eio:1", &["doctor"]).ok();
        let said = with_plan("cachefiles.nothing=eio:1", &["doctor"]).failed();
        assert!(said.contains("cachefiles.nothing") && said.contains("hint: "), "{said}");
        return;
    }
    for args in [&["doctor"][..], &keeper] {
        let said = with_plan("seed=7 cachefiles.pwrite=eio:1", args).failed();
        assert!(said.contains("LARDER_FAULTS") && said.contains("--features inject"), "{said}");
    }
}
