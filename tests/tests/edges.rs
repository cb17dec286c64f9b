//! Behind a reverse proxy: one set of checks for each of the configurations in `deploy/`, run by the real programs.

#[path = "edges/bodies.rs"]
mod bodies;
#[path = "edges/lives.rs"]
mod lives;
#[path = "edges/requests.rs"]
mod requests;
#[path = "edges/streams.rs"]
mod streams;

use system_tests::edge::Program;

macro_rules! for_each_program {
    ($($area:ident::$check:ident,)*) => {
        for_each_program!(@ traefik Traefik $($area $check)*);
        for_each_program!(@ nginx Nginx $($area $check)*);
        for_each_program!(@ caddy Caddy $($area $check)*);
        for_each_program!(@ haproxy HaProxy $($area $check)*);
    };
    (@ $module:ident $program:ident $($area:ident $check:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $check() {
                    super::$area::$check(super::Program::$program).await;
                }
            )*
        }
    };
}

for_each_program! {
    requests::every_path_reaches_whom_it_belongs_to,
    requests::requests_and_answers_pass_as_they_are,
    requests::the_relay_sees_the_browsers_address_and_nobody_forges_it,
    streams::events_arrive_one_by_one_and_end_with_their_reader,
    streams::websockets_pass,
    streams::a_paired_browser_is_served,
    bodies::large_bodies_pass_both_ways,
    bodies::an_upload_goes_on_piece_by_piece,
    lives::a_restart_of_the_relay_is_survived,
}

/// All of them at once: it waits for more than a minute, and hardly does anything else.
#[tokio::test(flavor = "multi_thread")]
async fn seventy_seconds_are_not_too_long() {
    let [first, second, third, fourth] = [Program::Traefik, Program::Nginx, Program::Caddy, Program::HaProxy]
        .map(|program| {
            tokio::spawn(async move {
                lives::seventy_seconds_are_not_too_long(program).await;
                program
            })
        });
    let ended = tokio::join!(first, second, third, fourth);
    let programs = [ended.0, ended.1, ended.2, ended.3].map(|ended| ended.expect("its log is above"));
    assert_eq!(programs, [Program::Traefik, Program::Nginx, Program::Caddy, Program::HaProxy]);
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_takes_websockets_inside_h2() {
    streams::websockets_inside_h2_pass(Program::HaProxy).await;
}
