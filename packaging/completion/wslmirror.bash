# bash completion for wslmirror(8)

_wslmirror() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local verb=${COMP_WORDS[1]} words=''
	COMPREPLY=()

	if ((COMP_CWORD == 1)); then
		words='run status trace ports doctor cleanup version help --version --help'
	else
		case $verb:$prev in
		run:--interface) words=$(command ls /sys/class/net 2>/dev/null) ;;
		run:--path) words='proxy direct' ;;
		run:--log-level) words='error warning info debug' ;;
		run:--runtime-dir | status:--runtime-dir | ports:--runtime-dir | doctor:--runtime-dir)
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -d -- "$cur")
			return
			;;
		doctor:--bundle)
			compopt -o filenames
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
			;;
		run:*) words='--interface --path --repair=false --to-windows --except --runtime-dir --log-level --help' ;;
		status:*) words='--json --runtime-dir --help' ;;
		trace:--from) words='windows linux lan container:' ;;
		trace:*) words='--from --json --help' ;;
		ports:explain) ;; # a port
		ports:*)
			words='--json --runtime-dir --help'
			((COMP_CWORD > 2)) || words="explain $words"
			;;
		doctor:*) words='--json --bundle --runtime-dir --help' ;;
		cleanup:*) words='--help' ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _wslmirror wslmirror
