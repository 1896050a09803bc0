"""Rows of the dashboard: everything at a glance, batches, documents, slicings."""

from __future__ import annotations

from panels import JOB, PROFILE, PROVIDER, Panel, Row, counted, mean, quantile, quantiles, stat, total

GLANCE = Row(
    "At a glance",
    [
        stat(
            "Alerts",
            "Alerts of Nightmill that fire now. Each has a section in docs/operations.md.",
            "none",
            'count(ALERTS{alertname=~"Nightmill.*", alertstate="firing"}) or vector(0)',
            1,
        ),
        stat(
            "Workers",
            "Worker processes that Prometheus reaches.",
            "none",
            f"count(nightmill_worker_memory_bytes{{{JOB}}}) or vector(0)",
            1,
            rising=False,
        ),
        stat(
            "Open batches",
            "Batches that have not ended.",
            "none",
            f"sum(max by (provider, status) (nightmill_batch_open{{{PROVIDER}}}))",
        ),
        stat(
            "Batches need attention",
            "Batches that wait for somebody: nightmill batch list --needs-attention.",
            "none",
            f"max(nightmill_batch_attention{{{JOB}}})",
            1,
        ),
        stat(
            "Most overdue poll",
            "How late the most overdue poll is. Recovery looks at what is 5 min late.",
            "s",
            f"max(nightmill_batch_overdue_seconds{{{JOB}}})",
            60,
            300,
        ),
        stat(
            "Document due longest",
            "Since when the document is due that is due longest. Sweeps come hourly.",
            "s",
            f"max(nightmill_document_overdue_seconds{{{JOB}}})",
            3600,
            7200,
        ),
        Panel(
            "Breakers",
            "The worst of the slicing breakers: while one is not closed, new slicings wait.",
            "none",
            ((f"max(nightmill_slicing_breaker{{{PROFILE}}}) or vector(0)", ""),),
            "stat",
            3,
            4,
            (1, 2),
            words=("closed", "half open", "open", "held open"),
        ),
        stat(
            "Repairs",
            "Repairs that recovery has carried out within the window.",
            "none",
            f"""sum({counted("nightmill_reconciler_repairs_total", JOB + ', state="done"')}) or vector(0)""",
        ),
    ],
)

BATCHES = Row(
    "Batches",
    [
        Panel(
            "Open batches",
            "By status. pending: not yet submitted, for want of a place, quota or the provider.",
            "none",
            ((f"sum by (status) (max by (provider, status) (nightmill_batch_open{{{PROVIDER}}}))", "{{status}}"),),
            stacked=True,
        ),
        Panel(
            "Ended batches",
            "Batches that ended within the window, by status. ended says nothing of their requests.",
            "none",
            ((total("status", "nightmill_batch_ended_total", PROVIDER), "{{status}}"),),
        ),
        Panel(
            "Requests by error",
            "Requests of batches that ended within the window, by the code of their error.",
            "none",
            (
                (
                    f"label_replace(sum by (code) ({counted('nightmill_batch_entries_total', PROVIDER)}), "
                    '"code", "answered", "code", "")',
                    "{{code}}",
                ),
            ),
        ),
        Panel(
            "Time to end",
            "From the acceptance of a batch to its end.",
            "s",
            quantiles("nightmill_batch_duration_seconds", "provider", PROVIDER),
        ),
        Panel(
            "Tokens",
            "Tokens of batches that ended within the window. cached is part of input, reasoning of output.",
            "short",
            ((total("kind", "nightmill_batch_tokens_total", PROVIDER), "{{kind}}"),),
        ),
        Panel(
            "Cost",
            "US dollars of batches that ended within the window, by model, where the price is known.",
            "currencyUSD",
            ((total("model", "nightmill_batch_cost_total", PROVIDER), "{{model}}"),),
            stacked=True,
        ),
        Panel(
            "Polls",
            "Polls within the window. transient: the provider was away; permanent: a key, mostly.",
            "none",
            ((total("outcome", "nightmill_batch_polls_total", PROVIDER), "{{outcome}}"),),
        ),
        Panel(
            "Poll lag",
            "How late polls come, and how late the most overdue one is now. Over 5 min recovery looks.",
            "s",
            (
                (quantile(0.95, "nightmill_batch_poll_lag_seconds", "provider", PROVIDER), "{{provider}} 95 %"),
                (f"max(nightmill_batch_overdue_seconds{{{JOB}}})", "most overdue"),
            ),
            limits=(300,),
        ),
        Panel(
            "Oldest open batch",
            "Age. A batch ends at its max age, 26 h after submission, Gemini's at 50 h.",
            "s",
            ((f"max by (provider) (nightmill_batch_oldest_seconds{{{PROVIDER}}})", "{{provider}}"),),
        ),
    ],
)

_ENDS = 'result=~"updated|unchanged|not_modified|baseline|permanent_failure|.*_exhausted"'
DOCUMENTS = Row(
    "Documents",
    [
        Panel(
            "Syncs",
            "Attempts to sync a document within the window, by what they came to.",
            "none",
            ((total("result", "nightmill_document_syncs_total"), "{{result}}"),),
        ),
        Panel(
            "Failed syncs",
            "The same, of attempts that failed, by code. sync_error is a fault of ours.",
            "none",
            ((total("error_code", "nightmill_document_syncs_total", JOB + ', error_code!=""'), "{{error_code}}"),),
        ),
        Panel(
            "Due",
            "Documents that are due, and those that wait for somebody.",
            "none",
            (
                (f"max(nightmill_document_due{{{JOB}}})", "due"),
                (f"max(nightmill_document_attention{{{JOB}}})", "need attention"),
            ),
        ),
        Panel(
            "Time of a sync",
            "How long attempts take.",
            "s",
            quantiles("nightmill_document_sync_duration_seconds", "result", f"{JOB}, {_ENDS}"),
        ),
        Panel(
            "Behind due",
            "How late sweeps' syncs begin, and since when the one is due that is due longest.",
            "s",
            (
                (
                    quantile(0.95, "nightmill_document_sync_lag_seconds", "job"),
                    "95 % of syncs",
                ),
                (f"max(nightmill_document_overdue_seconds{{{JOB}}})", "due longest"),
            ),
            limits=(7200,),
        ),
        Panel(
            "Backlog by account",
            "What waits of the accounts with most. batch: not submitted yet; document: due.",
            "none",
            (
                (
                    f'max by (account, kind) (nightmill_account_backlog{{{JOB}, account=~"$account"}})',
                    "{{account}} ({{kind}})",
                ),
            ),
        ),
    ],
)

_SLICED = 'status=~"sliced|needs_review"'
SLICINGS = Row(
    "Slicings",
    [
        Panel(
            "Completion rate",
            "Target: over 95 %. Slicings that came to slices, of all that ended and nobody canceled.",
            "percentunit",
            (
                (
                    f"sum({counted('nightmill_slicing_outcomes_total', f'{PROFILE}, {_SLICED}')})"
                    f""" / sum({counted("nightmill_slicing_outcomes_total", PROFILE + ', status!="canceled"')})""",
                    "",
                ),
            ),
            "stat",
            6,
            4,
            (0.9, 0.95),
            rising=False,
        ),
        Panel(
            "Mean duration",
            "Target: under 10 min, from the first start of the slicer to the end.",
            "s",
            (
                (
                    mean("nightmill_slicing_duration_seconds", "job", PROFILE),
                    "",
                ),
            ),
            "stat",
            6,
            4,
            (600, 1200),
        ),
        Panel(
            "Errors not handled",
            "Target: none. Slicings whose workflow failed; a document that cannot be cut is handled.",
            "none",
            (
                (
                    f"""sum({counted("temporal_workflow_failed_total", JOB + ', workflow_type="DocumentSlicing"')})"""
                    " or vector(0)",
                    "",
                ),
            ),
            "stat",
            6,
            4,
            (1,),
        ),
        Panel(
            "Memory of a worker",
            "Target: under 500 MB. The largest worker.",
            "bytes",
            ((f"max(nightmill_worker_memory_bytes{{{JOB}}})", ""),),
            "stat",
            6,
            4,
            (5e8, 1e9),
        ),
        Panel(
            "Slicings",
            "Slicings that ended within the window, by status; failed ones by code.",
            "none",
            (
                (
                    f"sum by (status, error_code) ({counted('nightmill_slicing_outcomes_total', PROFILE)})",
                    "{{status}} {{error_code}}",
                ),
            ),
        ),
        Panel(
            "Running and waiting",
            "Slicings that are queued or parked.",
            "none",
            ((f"max by (profile) (nightmill_slicing_waiting{{{PROFILE}}})", "{{profile}} waiting"),),
        ),
        Panel(
            "Oldest running slicing",
            "Age. An alert fires at 20 min.",
            "s",
            ((f"max(nightmill_slicing_oldest_seconds{{{JOB}}})", "oldest"),),
            limits=(600, 1200),
        ),
        Panel(
            "Duration",
            "Of slicings, from the first start of the slicer to the end.",
            "s",
            quantiles("nightmill_slicing_duration_seconds", "profile", PROFILE),
        ),
        Panel(
            "Wait",
            "From the request to the first start of the slicer.",
            "s",
            quantiles("nightmill_slicing_queue_wait_seconds", "profile", PROFILE),
        ),
        Panel(
            "Breaker",
            "0 closed, 1 half open (its canary is being sliced), 2 open, 3 held open by somebody.",
            "none",
            ((f"max by (profile) (nightmill_slicing_breaker{{{PROFILE}}})", "{{profile}}"),),
            words=("closed", "half open", "open", "held open"),
        ),
        Panel(
            "Programs",
            "How long programs take, 95 %, by step.",
            "s",
            ((quantile(0.95, "nightmill_slicing_program_duration_seconds", "step", PROFILE), "{{step}}"),),
        ),
        Panel(
            "Memory of programs",
            "Of a program's processes together, 95 %, by step.",
            "bytes",
            ((quantile(0.95, "nightmill_slicing_program_memory_bytes", "step", PROFILE), "{{step}}"),),
        ),
        Panel(
            "Pages a second",
            "Median over documents.",
            "none",
            ((quantile(0.5, "nightmill_slicing_pages_per_second", "profile", PROFILE), "{{profile}}"),),
        ),
    ],
)
