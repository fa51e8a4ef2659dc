//! Command line of the simulator: seeds, single runs, scenarios, mutants, crash images.
#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod mutants;

use arguments::Arguments;

const USAGE: &str = "\
usage: sim COMMAND [--system cluster|quorum] ...
  seeds --count N [--first S] [--jobs J] [--mutant NAME] [--stop]   run N seeds (--stop: until the first failure)
        [--coverage] [--json]                                       what was passed and what never, as a table or JSON
        [--clocks PERCENT]                                          clock rates off by up to that: reads may be stale
  run --seed N [--mutant NAME] [--trace]                            run one seed, with every event if wanted
  scenarios [--mutant NAME] [--only NAME] [--trace]                 run the steered scenarios
  mutants [--limit SEEDS] [--images N] [--jobs J] [--only NAME]     first scenario, seed or image that finds each mutant;
                                                                    all must be found
  images --count N [--first SEED] [--mutant store.RULE|log.RULE]    crash images of the stores
Exit code 0: nothing was found wrong (mutants: every one looked for was found).";

fn main() -> std::process::ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(a) => a,
        Err(e) => {
            eprintln!("sim: {e}\n{USAGE}");
            return std::process::ExitCode::from(2);
        }
    };
    match commands::carry_out(&arguments) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(e) => {
            eprintln!("sim: {e}\n{USAGE}");
            std::process::ExitCode::from(2)
        }
    }
}
