"""Every row of the page about what can go wrong is held by tests that are really there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "what-can-go-wrong.md").read_text("utf-8")

PROOFS = {
    "The process is killed": (
        "proof/test_kills.py::test_a_run_killed_again_and_again_reaches_its_end",
        "proof/test_kills.py::test_another_machine_goes_on_with_nothing_but_the_hub",
    ),
    "Ctrl-C, SIGTERM": ("cli/test_interruptions.py::test_a_signal_stops_in_order",),
    "`--time-limit` is reached": (
        "cli/test_interruptions.py::test_the_time_limit_ends_a_run_in_order",
        "cli/test_actions.py::test_a_stopped_run_says_how_far_it_is",
    ),
    "A worker process dies": (
        "engines/test_processes.py::test_a_killed_worker_is_replaced",
        "engines/test_processes.py::test_a_poison_unit_stops_the_run_after_three_workers",
    ),
    "Reset, timeout, 5xx": (
        "hub/test_engines.py::test_a_shard_comes_whole_over_a_bad_line",
        "hub/test_engines.py::test_a_dead_line_ends_in_a_temporary_failure",
        "hub/test_uploads.py::test_an_outage_surfaces_with_its_exit_code",
    ),
    "429": (
        "hub/test_client.py::test_waits_are_what_the_server_asks_in_any_of_its_words",
        "hub/test_client.py::test_no_wait_is_longer_than_ten_minutes",
    ),
    "A transfer falls silent": (
        "hub/test_engines.py::test_a_silent_line_is_given_up",
        "hub/test_engines.py::test_http_takes_over_where_xet_fails",
        "hub/test_uploads.py::test_silence_is_ended_and_a_file_sent_again",
    ),
    "A shard arrives damaged": (
        "hub/test_engines.py::test_a_unit_made_over_a_damaged_line_is_made_again_once",
        "hub/test_engines.py::test_a_unit_whose_line_stays_damaged_fails_with_both_hashes",
    ),
    "The answer to the publish commit": (
        "proof/test_schedules.py::test_every_schedule_of_one_fault",
        "proof/test_schedules.py::test_two_runs_at_once_publish_once",
    ),
    "Somebody commits to main": (
        "test_pipeline.py::test_what_somebody_commits_to_main_meanwhile_is_not_overwritten",
    ),
    "Another run publishes": (
        "test_pipeline.py::test_another_run_that_published_the_same_plan_first_is_recognised",
    ),
    "The Hub has no room": (
        "hostile/test_mistakes.py::test_a_hub_without_room_is_quoted_and_what_is_staged_is_kept",
    ),
    "A token ends": (
        "hostile/test_mistakes.py::test_a_token_that_ends_in_mid_run_costs_no_shard",
        "hub/test_credentials.py::test_a_run_outlives_its_tokens",
    ),
    "The disk is full": (
        "proof/test_local_faults.py::test_a_folder_on_a_full_disk_keeps_what_is_finished",
        "proof/test_local_faults.py::test_a_slot_that_does_not_fit_the_disk_gives_way_to_ranges",
        "proof/test_local_faults.py::test_a_folder_that_can_only_be_read",
    ),
    "The memory does not suffice": (
        "proof/test_local_faults.py::test_memory_that_does_not_suffice",
    ),
    "The GPU is full": (
        "kernels/test_full_device.py::test_a_device_that_fills_up_is_asked_for_less_first",
        "kernels/test_full_device.py::test_a_named_device_that_is_full_from_the_start_ends_the_run",
    ),
    "The GPU gives other bytes": (
        "gpu/test_triton.py::test_a_device_that_gives_other_bytes_is_refused",
    ),
    "A header, an index": (
        "steps/test_inventory.py::test_damage_seen_in_headers_is_refused_by_name",
        "formats/test_checkpoint.py::test_hostile_files_are_refused_as_the_library_refuses_them",
    ),
    "A tensor that no rule": (
        "steps/test_inventory.py::test_an_fp8_weight_under_another_scale_name_is_never_copied",
    ),
    "A weight holds NaN": (
        "test_work.py::test_nan_and_infinity_are_refused_and_the_keep_in_the_message_works",
    ),
    "One huge weight": ("test_work.py::test_a_tensor_flattened_by_one_outlier_is_refused",),
    "`verify` meets an expression": (
        "audit/test_commands.py::test_an_expression_that_would_never_end_ends_with_7",
        "formats/test_expressions.py::test_the_patience_is_for_all_names_together",
    ),
    "The source moves": (
        "hostile/test_changing_source.py::test_a_source_that_moves_in_mid_run_is_converted_as_it",
        "hostile/test_changing_source.py::test_a_pinned_commit_that_is_gone_is_a_conflict",
        "hostile/test_changing_source.py::test_a_source_made_anew_under_its_name_is_not_trusted",
    ),
    "A private or gated source": (
        "hostile/test_privacy.py::test_a_target_must_be_as_closed_as_its_source",
    ),
    "The target holds something": (
        "test_pipeline.py::test_foreign_content_is_replaced_only_on_request",
    ),
    "The target is the source": (
        "hostile/test_mistakes.py::test_a_renamed_source_is_never_its_own_target",
        "hostile/test_mistakes.py::test_one_folder_by_two_links_is_one",
    ),
    "A token that may not write": (
        "hostile/test_mistakes.py::test_a_token_that_cannot_publish_is_found_before_any_download",
    ),
}


def test_every_row_has_its_proof_and_every_proof_its_row():
    cells = re.findall(r"^\| ([^|]+?) \|", PAGE, re.MULTILINE)
    rows = [cell for cell in cells if cell != "what happens"]
    assert len(rows) == len(PROOFS)
    for row, begins in zip(rows, PROOFS, strict=True):
        assert row.startswith(begins)


@pytest.mark.parametrize(
    ("row", "proof"), [(row, proof) for row, proofs in PROOFS.items() for proof in proofs]
)
def test_the_proof_of_a_row_is_there(row, proof):
    path, _, name = proof.partition("::")
    text = (ROOT / "tests" / path).read_text("utf-8")
    assert re.search(rf"^def {name}", text, re.MULTILINE), row
