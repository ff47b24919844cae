# bash completion for wslmirror(8)

# The ports that containers publish, according to the daemon.
_wslmirror_ports() {
	wslmirror status --json 2>/dev/null | command sed -n 's/^ *"port": \([0-9]*\),*$/\1/p'
}

_wslmirror() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local verb=${COMP_WORDS[1]} words=''
	COMPREPLY=()

	# bash splits --path=direct.
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	local verbs='run hold status trace ports doctor log cleanup version help'
	if ((COMP_CWORD == 1)); then
		words="$verbs --version --help"
	else
		case $verb:$prev in
		run:--interface) words=$(command ls /sys/class/net 2>/dev/null) ;;
		run:--path) words='proxy direct' ;;
		run:--user) words=$(command sed 's/:.*//' /etc/passwd) ;;
		run:--log-level | hold:--log-level) words='error warning info debug' ;;
		*:--runtime-dir)
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -d -- "$cur")
			return
			;;
		doctor:--bundle) ;; # a new file
		log:--since) words='10m 1h today yesterday' ;;
		run:*) words='--interface --path --repair=false --to-windows --except --user --runtime-dir --log-level --help' ;;
		hold:*) words='--runtime-dir --log-level --help' ;;
		status:*) words='--watch --json --runtime-dir --help' ;;
		trace:--from) words='windows linux lan container:' ;;
		trace:*) words='--from --live --json --help' ;;
		ports:explain) words=$(_wslmirror_ports) ;;
		ports:free) words='--from --json --runtime-dir --help' ;;
		ports:--from) ;; # a port
		ports:*)
			words='--json --runtime-dir --help'
			[[ " ${COMP_WORDS[*]} " != *' free '* ]] || words="--from $words"
			((COMP_CWORD > 2)) || words="explain free $words"
			;;
		doctor:*)
			words='--json --bundle --runtime-dir --help'
			[[ " ${COMP_WORDS[*]} " != *' --bundle'* ]] || words='--runtime-dir --help'
			;;
		log:*) words='--since -f --help' ;;
		cleanup:*) words='--help' ;;
		help:*) words=$verbs ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _wslmirror wslmirror
