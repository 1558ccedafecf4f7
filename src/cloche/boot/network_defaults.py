"""Parameters of /proc/sys/net that have no effect here, with the values of a fresh network namespace of Linux 6.12.

Data for `cloche.boot.network`: folders (below /proc/sys/net, each gets the same files) and NAME=VALUE words.
"""

from typing import Final

DEFAULTS: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (
        ("ipv4",),
        (
            "fib_notify_on_flag_change=0 fwmark_reflect=0 icmp_echo_enable_probe=0 icmp_echo_ignore_broadcasts=1 "
            "icmp_errors_use_inbound_ifaddr=0 icmp_ignore_bogus_error_responses=1 icmp_msgs_burst=50 "
            "icmp_msgs_per_sec=1000 icmp_ratelimit=1000 icmp_ratemask=6168 igmp_link_local_mcast_reports=1 "
            "igmp_max_memberships=20 igmp_max_msf=10 igmp_qrv=2 ip_autobind_reuse=0 ip_dynaddr=0 ip_early_demux=1 "
            "ip_forward_update_priority=1 ip_forward_use_pmtu=0 ip_no_pmtu_disc=0 ipfrag_high_thresh=4194304 "
            "ipfrag_low_thresh=3145728 ipfrag_max_dist=64 ipfrag_time=30 nexthop_compat_mode=1 tcp_adv_win_scale=1 "
            "tcp_app_win=31 tcp_autocorking=1 tcp_backlog_ack_defer=1 tcp_base_mss=1024 "
            "tcp_challenge_ack_limit=2147483647 tcp_comp_sack_delay_ns=1000000 tcp_comp_sack_nr=44 "
            "tcp_comp_sack_slack_ns=100000 tcp_dsack=1 tcp_early_demux=1 tcp_early_retrans=3 tcp_ecn_fallback=1 "
            "tcp_fack=0 tcp_frto=2 tcp_fwmark_accept=0 tcp_invalid_ratelimit=500 tcp_limit_output_bytes=4194304 "
            "tcp_max_reordering=300 tcp_max_tw_buckets=131072 tcp_min_rtt_wlen=300 tcp_min_snd_mss=48 "
            "tcp_min_tso_segs=2 tcp_moderate_rcvbuf=1 tcp_mtu_probe_floor=48 tcp_mtu_probing=0 tcp_no_metrics_save=0 "
            "tcp_no_ssthresh_metrics_save=1 tcp_notsent_lowat=4294967295 tcp_orphan_retries=0 tcp_pacing_ca_ratio=120 "
            "tcp_pacing_ss_ratio=200 tcp_pingpong_thresh=1 tcp_recovery=1 tcp_reflect_tos=0 tcp_reordering=3 "
            "tcp_retrans_collapse=1 tcp_retries1=3 tcp_rfc1337=0 tcp_rto_min_us=200000 tcp_slow_start_after_idle=1 "
            "tcp_stdurg=0 tcp_syn_linear_timeouts=4 tcp_synack_retries=5 tcp_thin_linear_timeouts=0 tcp_tso_rtt_log=9 "
            "tcp_tso_win_divisor=3 tcp_workaround_signed_windows=0 udp_early_demux=1 "
        ),
    ),
    (
        ("ipv6",),
        (
            "anycast_src_echo_reply=0 auto_flowlabels=1 fib_notify_on_flag_change=0 flowlabel_consistency=1 "
            "flowlabel_reflect=0 flowlabel_state_ranges=0 fwmark_reflect=0 ip6frag_high_thresh=4194304 "
            "ip6frag_low_thresh=3145728 ip6frag_time=60 ip_nonlocal_bind=0 max_dst_opts_length=2147483647 "
            "max_dst_opts_number=8 max_hbh_length=2147483647 max_hbh_opts_number=8 "
        ),
    ),
    (
        ("ipv6/icmp",),
        (
            "echo_ignore_all=0 echo_ignore_anycast=0 echo_ignore_multicast=0 error_anycast_as_unicast=0 ratelimit=100 "
            "ratemask=0-1,3-127 "
        ),
    ),
    (
        (
            "ipv4/conf/all",
            "ipv4/conf/default",
            "ipv4/conf/lo",
        ),
        (
            "accept_local=0 accept_redirects=1 accept_source_route=1 arp_accept=0 arp_announce=0 "
            "arp_evict_nocarrier=1 arp_ignore=0 arp_notify=0 bc_forwarding=0 bootp_relay=0 disable_policy=0 "
            "drop_gratuitous_arp=0 drop_unicast_in_l2_multicast=0 force_igmp_version=0 forwarding=0 "
            "igmpv2_unsolicited_report_interval=10000 igmpv3_unsolicited_report_interval=1000 "
            "ignore_routes_with_linkdown=0 log_martians=0 medium_id=0 promote_secondaries=0 proxy_arp=0 "
            "proxy_arp_pvlan=0 route_localnet=0 secure_redirects=1 send_redirects=1 shared_media=1 src_valid_mark=0 "
            "tag=0 "
        ),
    ),
    (
        (
            "ipv6/conf/all",
            "ipv6/conf/default",
            "ipv6/conf/lo",
        ),
        (
            "accept_dad=1 accept_ra=1 accept_ra_defrtr=1 accept_ra_from_local=0 accept_ra_min_hop_limit=1 "
            "accept_ra_min_lft=0 accept_ra_mtu=1 accept_ra_pinfo=1 accept_ra_rt_info_max_plen=0 "
            "accept_ra_rt_info_min_plen=0 accept_ra_rtr_pref=1 accept_redirects=1 accept_source_route=0 "
            "accept_untracked_na=0 addr_gen_mode=0 autoconf=1 dad_transmits=1 disable_policy=0 "
            "drop_unicast_in_l2_multicast=0 drop_unsolicited_na=0 enhanced_dad=1 force_mld_version=0 force_tllao=0 "
            "forwarding=0 hop_limit=64 ignore_routes_with_linkdown=0 keep_addr_on_down=0 max_addresses=16 "
            "max_desync_factor=600 mldv1_unsolicited_report_interval=10000 mldv2_unsolicited_report_interval=1000 "
            "mtu=1280 ndisc_evict_nocarrier=1 ndisc_notify=0 ndisc_tclass=0 optimistic_dad=0 proxy_ndp=0 "
            "ra_defrtr_metric=1024 ra_honor_pio_life=0 ra_honor_pio_pflag=0 regen_max_retry=3 regen_min_advance=2 "
            "router_probe_interval=60 router_solicitation_delay=1 router_solicitation_interval=4 "
            "router_solicitation_max_interval=3600 router_solicitations=-1 suppress_frag_ndisc=1 "
            "temp_prefered_lft=86400 temp_valid_lft=604800 use_oif_addrs_only=0 use_optimistic=0 use_tempaddr=0 "
        ),
    ),
    (
        ("ipv4/route",),
        "min_adv_mss=256 min_pmtu=552 mtu_expires=600 ",
    ),
    (
        ("ipv6/route",),
        (
            "gc_elasticity=9 gc_interval=30 gc_min_interval=0 gc_min_interval_ms=500 gc_thresh=1024 gc_timeout=60 "
            "max_size=2147483647 min_adv_mss=1220 mtu_expires=600 skip_notify_on_dev_down=0 "
        ),
    ),
    (
        (
            "ipv4/neigh/default",
            "ipv4/neigh/lo",
        ),
        (
            "anycast_delay=100 app_solicit=0 base_reachable_time=30 base_reachable_time_ms=30000 "
            "delay_first_probe_time=5 gc_stale_time=60 interval_probe_time_ms=5000 locktime=100 mcast_resolicit=0 "
            "mcast_solicit=3 proxy_delay=80 proxy_qlen=64 retrans_time=100 retrans_time_ms=1000 ucast_solicit=3 "
        ),
    ),
    (
        (
            "ipv6/neigh/default",
            "ipv6/neigh/lo",
        ),
        (
            "anycast_delay=100 app_solicit=0 base_reachable_time=30 base_reachable_time_ms=30000 "
            "delay_first_probe_time=5 gc_stale_time=60 interval_probe_time_ms=5000 locktime=0 mcast_resolicit=0 "
            "mcast_solicit=3 proxy_delay=80 proxy_qlen=64 retrans_time=250 retrans_time_ms=1000 ucast_solicit=3 "
        ),
    ),
)
