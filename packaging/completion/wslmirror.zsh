#compdef wslmirror
# zsh completion for wslmirror(8)

local -a verbs
verbs=(
	'run:run the daemon in the foreground'
	'status:show the state'
	'cleanup:remove what a killed daemon left in the kernel'
	'version:print the version'
	'help:print a summary'
)

if (( CURRENT == 2 )); then
	_describe -t commands command verbs
	_arguments '(- *)--version[print the version]' '(- *)--help[print a summary]'
	return
fi

local verb=$words[2]
shift words
(( CURRENT-- ))
case $verb in
run)
	_arguments \
		'--interface[where packets from Windows arrive]:interface:_net_interfaces' \
		'--path[the way to a published port]:path:(proxy)' \
		'--repair[reserved, has no effect]' \
		'--runtime-dir[directory of the state]:directory:_directories' \
		'--log-level[least important messages to log]:level:(error warning info debug)' \
		'(- *)--help[print a summary]'
	;;
status)
	_arguments \
		'--json[write JSON]' \
		'--runtime-dir[directory of the state]:directory:_directories' \
		'(- *)--help[print a summary]'
	;;
cleanup)
	_arguments '(- *)--help[print a summary]'
	;;
esac
