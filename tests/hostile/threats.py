"""The threats hubconv answers, each with the tests that prove its answer.

Paths are relative to `tests/`; a name may stand for all tests that begin with it.
"""

SOURCE = {
    "S1 a header length that is a bomb": (
        "formats/test_checkpoint.py::test_hostile_files_are_refused_as_the_library_refuses_them",
        "hostile/test_headers.py::test_a_length_bomb_is_refused_after_one_read_and_nothing_is_allo",
        "hostile/test_headers.py::test_a_server_that_ignores_the_range_is_not_listened_to_any_long",
    ),
    "S2 a header of very many tensors": (
        "hostile/test_headers.py::test_a_bomb_of_empty_tensors_is_read_in_bounded_memory",
        "hostile/test_headers.py::test_the_cap_on_tensors_counts_all_shards_together",
        "hostile/test_headers.py::test_large_headers_are_read_one_at_a_time",
        "formats/test_checkpoint.py::test_more_tensors_than_the_cap_are_refused",
    ),
    "S3 tensors that overlap, leave holes or overflow": (
        "formats/test_checkpoint.py::test_nothing_is_accepted_that_the_library_rejects",
        "formats/test_checkpoint.py::test_nearly_sound_headers_are_judged_as_the_library_judges",
        "hostile/test_fuzz.py::test_no_mutation_of_a_seed_gets_past_a_reader",
    ),
    "S4 a name or a key twice": (
        "formats/test_checkpoint.py::test_what_only_the_library_takes_is_refused",
        "formats/test_checkpoint.py::test_a_key_twice_within_a_tensor_is_refused",
        "hostile/test_fuzz.py::test_a_parser_that_takes_the_last_of_two_names_is_caught",
    ),
    "S5 tensor names that are paths or hide something": (
        "formats/test_checkpoint.py::test_what_only_the_library_takes_is_refused",
        "hostile/test_cards.py::test_no_name_of_a_source_steers_the_terminal",
    ),
    "S6 an index that leads elsewhere": (
        "hostile/test_headers.py::test_no_index_leads_out_of_the_pinned_tree",
        "formats/test_checkpoint.py::test_an_index_that_points_elsewhere_is_refused",
        "steps/test_inventory.py::test_damage_seen_in_headers_is_refused_by_name",
        "steps/test_plan.py::test_ghosts_are_accepted_only_where_the_profile_knows_them",
        "steps/test_inventory.py::test_a_wrong_total_size_in_the_source_is_a_warning",
    ),
    "S7 links and submodules": (
        "hostile/test_headers.py::test_entries_that_are_no_files_are_passed_over",
        "hostile/test_headers.py::test_a_link_that_leads_out_of_a_folder_publishes_nothing",
    ),
    "S8 numbers that are none": (
        "test_work.py::test_nan_and_infinity_are_refused_and_the_keep_in_the_message_works",
        "hostile/test_numbers.py::test_a_scale_that_makes_no_numbers_is_refused_by_name",
        "hostile/test_numbers.py::test_a_finite_scale_gives_finite_numbers_that_the_source_means",
        "steps/test_inventory.py::test_damage_seen_in_bytes_is_refused_by_name",
    ),
    "S9 an outlier that flattens a tensor": (
        "test_work.py::test_a_tensor_flattened_by_one_outlier_is_refused",
        "hostile/test_numbers.py::test_a_scale_that_leaves_nothing_of_a_weight_is_refused_by_name",
    ),
    "S10 a revision that moves in mid-run": (
        "hostile/test_changing_source.py::test_a_source_that_moves_in_mid_run_is_converted_as_it",
        "hostile/test_changing_source.py::test_an_answer_for_another_commit_is_not_used",
    ),
    "S11 a pinned commit that disappears": (
        "hostile/test_changing_source.py::test_a_pinned_commit_that_is_gone_is_a_conflict",
        "hostile/test_changing_source.py::test_a_commit_that_vanishes_in_mid_run_costs_no_shard",
    ),
    "S12 a name that has a new owner": (
        "hostile/test_changing_source.py::test_a_source_made_anew_under_its_name_is_not_trusted",
        "hostile/test_mistakes.py::test_a_source_that_answers_under_another_name_is_not_taken_for",
    ),
    "S13 a shard cut short or damaged": (
        "hub/test_engines.py::test_a_shard_that_stays_wrong_is_refused_with_both_hashes",
        "hub/test_engines.py::test_a_corrupted_byte_is_found_and_the_next_time_is_right",
        "hub/test_engines.py::test_a_shard_comes_whole_over_a_bad_line",
    ),
    "S14 markup in any text": (
        "hostile/test_cards.py::test_nothing_a_source_says_becomes_part_of_the_card",
        "hostile/test_cards.py::test_no_text_at_all_becomes_part_of_the_card",
        "hostile/test_cards.py::test_the_text_of_a_sources_card_is_not_copied",
        "test_card.py::test_no_string_changes_the_shape_of_a_card",
    ),
    "S15 an alias bomb": (
        "hostile/test_cards.py::test_an_alias_bomb_is_dropped_and_not_expanded",
        "test_card.py::test_an_alias_bomb_costs_nothing",
    ),
    "S16 code published under our name": (
        "hostile/test_code.py::test_code_travels_where_a_configuration_names_it_and_never_runs",
        "hostile/test_code.py::test_code_can_be_refused_altogether",
        "hostile/test_code.py::test_no_module_can_run_what_a_source_holds",
    ),
    "S17 pickles": ("hostile/test_code.py::test_pickles_are_neither_fetched_nor_passed_on",),
    "S18 a chat template": (
        "hostile/test_code.py::test_a_chat_template_is_the_same_bytes_and_listed",
    ),
    "S19 a licence that forbids": (
        "hostile/test_cards.py::test_a_licence_travels_with_the_weights",
        "hostile/test_cards.py::test_a_licence_that_allows_no_changed_versions_is_pointed_out",
        "hostile/test_privacy.py::test_a_gated_source_needs_a_closed_target",
    ),
    "S20 a quantized weight whose scale has another name": (
        "steps/test_inventory.py::test_an_fp8_weight_under_another_scale_name_is_never_copied",
        "steps/test_plan.py::test_every_source_tensor_is_in_exactly_one_job",
    ),
}

OPERATOR = {
    "O1 a target with other content": (
        "test_pipeline.py::test_foreign_content_is_replaced_only_on_request",
        "test_pipeline.py::test_the_result_of_another_source_is_replaced_only_on_request",
        "cli/test_errors.py::test_other_content_in_a_folder_is_a_conflict",
    ),
    "O2 a target that is the source": (
        "cli/test_errors.py::test_source_and_target_must_differ",
        "hostile/test_mistakes.py::test_a_renamed_source_is_never_its_own_target",
        "hostile/test_mistakes.py::test_one_folder_by_two_links_is_one",
    ),
    "O3 a token that cannot write": (
        "hostile/test_mistakes.py::test_a_token_that_cannot_publish_is_found_before_any_download",
        "hostile/test_mistakes.py::test_what_a_token_may_do_is_read_from_what_the_hub_tells",
        "hostile/test_mistakes.py::test_a_token_that_ends_in_mid_run_costs_no_shard",
        "hub/test_credentials.py::test_a_run_outlives_its_tokens",
        "hub/test_credentials.py::test_a_publisher_that_is_trusted_no_more_ends_the_run_and_costs_no",
        "hub/test_credentials.py::test_an_identity_for_another_repository_than_the_target_is_refused",
    ),
    "O4 one credential for the source, one for the target": (
        "hostile/test_mistakes.py::test_a_source_has_a_token_of_its_own_and_the_target_never_sees",
        "hostile/test_mistakes.py::test_a_client_is_never_packed_up_with_its_token",
        "hub/test_credentials.py::test_a_gated_source_has_a_credential_of_its_own",
        "hub/test_credentials.py::test_a_child_is_lent_a_word_and_never_a_token_of_the_hub",
    ),
    "O5 a source that is NVFP4 already": (
        "steps/test_plan.py::test_a_source_that_is_nvfp4_already_is_refused",
        "test_pipeline.py::test_a_second_run_writes_nothing",
    ),
    "O6 a private or gated source and a public target": (
        "hostile/test_privacy.py::test_a_target_must_be_as_closed_as_its_source",
        "hostile/test_privacy.py::test_no_shard_is_staged_in_a_target_that_turned_public",
        "hostile/test_privacy.py::test_nothing_is_published_to_a_target_that_turned_public",
        "hostile/test_privacy.py::test_a_pull_request_on_a_public_target_shows_nothing_private",
        "hostile/test_privacy.py::test_going_on_with_half_of_the_word_is_refused",
        "test_pipeline.py::test_a_private_source_is_not_published_openly",
    ),
    "O7 a gate not yet passed": ("cli/test_errors.py::test_a_gated_source_is_refused",),
    "O8 no room on the Hub": (
        "hostile/test_mistakes.py::test_a_private_result_larger_than_a_free_account_is_doubted",
        "hostile/test_mistakes.py::test_the_doubt_is_told_before_the_work",
        "hostile/test_mistakes.py::test_a_hub_without_room_is_quoted_and_what_is_staged_is_kept",
    ),
}
