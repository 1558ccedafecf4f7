/* execve of scripts by every way of naming them, and of ELF files that are wrong in one field each. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <elf.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/syscall.h>
static void put(const char*n,const void*d,size_t l,int mode){unlink(n);int f=open(n,O_WRONLY|O_CREAT|O_TRUNC,0700);write(f,d,l);fchmod(f,mode);close(f);}
static void text(const char*n,const char*s,int mode){put(n,s,strlen(s),mode);}
static void report(const char*n,pid_t c,int fd){int st;char e[4]={0};read(fd,e,4);waitpid(c,&st,0);int en=*(int*)e; if(en)printf("%-28s exec errno %d\n",n,en);else if(WIFSIGNALED(st))printf("%-28s signal %d\n",n,WTERMSIG(st));else printf("%-28s exit %d\n",n,WEXITSTATUS(st));fflush(stdout);close(fd);}
#define RUN(n,call) do{fflush(stdout);int p[2];pipe2(p,O_CLOEXEC);pid_t c=fork();if(!c){call;int e=errno;write(p[1],&e,4);_exit(99);}close(p[1]);report(n,c,p[0]);}while(0)
static char*ev[]={"A=b",0};
static int fexec(int fd,const char*path,char**av,int fl){return syscall(SYS_execveat,fd,path,av,ev,fl);}
struct elf{Elf64_Ehdr e;Elf64_Phdr p[8];char interp[64];unsigned char code[64];};
static struct elf mk(void){struct elf x;memset(&x,0,sizeof x);memcpy(x.e.e_ident,ELFMAG,4);x.e.e_ident[4]=2;x.e.e_ident[5]=1;x.e.e_ident[6]=1;x.e.e_type=ET_EXEC;x.e.e_machine=62;x.e.e_version=1;x.e.e_phoff=64;x.e.e_ehsize=64;x.e.e_phentsize=56;x.e.e_phnum=1;
 x.e.e_entry=0x400000+offsetof(struct elf,code);
 unsigned char c[]={0xbf,7,0,0,0,0xb8,60,0,0,0,0x0f,5};memcpy(x.code,c,sizeof c);
 x.p[0]=(Elf64_Phdr){PT_LOAD,5,0,0x400000,0x400000,sizeof x,sizeof x,0x1000};return x;}
static void elf(const char*n,struct elf*x){char f[64];sprintf(f,"./%s",n);put(f,x,sizeof *x,0700);char*av[]={f,0};RUN(n,execve(f,av,ev));}
int main(int argc,char**argv){
 if(argc>1||!strcmp(argv[0],"")||strstr(argv[0],"me")){for(int i=0;i<argc;i++)printf("[%s]",argv[i]);puts("");return 0;}
 char d[]="exec.d";mkdir(d,0755);char self[4096];readlink("/proc/self/exe",self,4096);self[readlink("/proc/self/exe",self,4095)]=0;chdir(d);symlink(self,"me");
 char s[300];
 text("scr","#!/bin/sh\necho \"$0\" \"$@\"\n",0755);
 char*av[]={"a0","a1",0};
 RUN("script",execve("./scr",av,ev));
 int f=open("scr",O_RDONLY);RUN("script fd",fexec(f,"",av,AT_EMPTY_PATH));
 int fc=open("scr",O_RDONLY|O_CLOEXEC);RUN("script cloexec fd",fexec(fc,"",av,AT_EMPTY_PATH));
 int fp=open("scr",O_PATH);RUN("script opath fd",fexec(fp,"",av,AT_EMPTY_PATH));
 int fpc=open("scr",O_PATH|O_CLOEXEC);RUN("script opath cloexec",fexec(fpc,"",av,AT_EMPTY_PATH));
 int dd=open(".",O_RDONLY|O_DIRECTORY);RUN("script dirfd",fexec(dd,"scr",av,0));
 int dc=open(".",O_RDONLY|O_DIRECTORY|O_CLOEXEC);RUN("script cloexec dirfd",fexec(dc,"scr",av,0));
 RUN("script AT_FDCWD",fexec(AT_FDCWD,"scr",av,0));
 int m=memfd_create("mscr",0);write(m,"#!/bin/sh\necho mem \"$0\" \"$@\"\n",30);RUN("script memfd",fexec(m,"",av,AT_EMPTY_PATH));
 int mc=memfd_create("mscr",MFD_CLOEXEC);write(mc,"#!/bin/sh\necho mem\n",19);RUN("script memfd cloexec",fexec(mc,"",av,AT_EMPTY_PATH));
 int me=memfd_create("elf",MFD_CLOEXEC);struct elf x=mk();write(me,&x,sizeof x);RUN("elf memfd cloexec",fexec(me,"",av,AT_EMPTY_PATH));
 sprintf(s,"/proc/self/fd/%d",m);RUN("script by /proc/self/fd",execve(s,av,ev));
 sprintf(s,"/proc/self/fd/%d",mc);RUN("script by cloexec proc fd",execve(s,av,ev));
 RUN("empty no flag",fexec(dd,"",av,0));RUN("bad flags",fexec(dd,"scr",av,0x4000));RUN("bad fd",fexec(99,"",av,AT_EMPTY_PATH));RUN("bad fd abs",fexec(99,"/bin/true",av,0));RUN("dir fd empty",fexec(dd,"",av,AT_EMPTY_PATH));
 symlink("scr","lnk");RUN("nofollow link",fexec(dd,"lnk",av,AT_SYMLINK_NOFOLLOW));RUN("follow link",fexec(dd,"lnk",av,0));RUN("file as dirfd",fexec(f,"scr",av,0));
 RUN("null name",execve(0,av,ev));RUN("empty name",execve("",av,ev));RUN("dir",execve("/tmp",av,ev));RUN("notdir",execve("./scr/x",av,ev));RUN("none",execve("./nope",av,ev));
 for(int i=1;i<9;i++){char n[32],b[64];sprintf(n,"lv%d",i);if(i==1)sprintf(b,"#!./me echo\n");else sprintf(b,"#!./lv%d\n",i-1);text(n,b,0755);sprintf(n,"./lv%d",i);char*a[]={"x",0};RUN(n,execve(n,a,ev));}
 text("self","#!./self\n",0755);RUN("script of itself",execve("./self",av,ev));
 text("noi","#!/nonexistent/x\n",0755);RUN("no interpreter",execve("./noi",av,ev));
 text("nox","#!./plain\n",0755);text("plain","hello",0644);RUN("interpreter not executable",execve("./nox",av,ev));
 text("dirint","#!/tmp\n",0755);RUN("interpreter is a dir",execve("./dirint",av,ev));
 text("txtint","#!./txt\n",0755);text("txt","hello",0755);RUN("interpreter is text",execve("./txtint",av,ev));RUN("text",execve("./txt",av,ev));
 text("emp","",0755);RUN("empty file",execve("./emp",av,ev));text("hb","#!",0755);RUN("only #!",execve("./hb",av,ev));text("hb2","#!\n",0755);RUN("#! nl",execve("./hb2",av,ev));text("hb3","#!   \t \n",0755);RUN("#! blanks",execve("./hb3",av,ev));
 text("arg","#!./me echo a b  c \t\nx",0755);RUN("args",execve("./arg",av,ev));
 text("sp","#! \t ./me \t echo\n",0755);RUN("leading blanks",execve("./sp",av,ev));
 text("nonl","#!./me echo",0755);RUN("no newline",execve("./nonl",av,ev));
 text("cr","#!./me\r\n",0755);RUN("cr",execve("./cr",av,ev));
 {char b[600];memset(b,'a',600);memcpy(b,"#!./me echo ",12);b[599]='\n';put("longarg",b,600,0755);RUN("long argument",execve("./longarg",av,ev));memcpy(b,"#!./",4);memset(b+4,'b',595);put("longint",b,600,0755);RUN("long interpreter",execve("./longint",av,ev));b[250]=' ';put("li2",b,600,0755);RUN("long interp, blank",execve("./li2",av,ev));b[250]='b';b[254]=' ';put("li3",b,600,0755);RUN("blank at 254",execve("./li3",av,ev));b[254]='b';b[255]=' ';put("li4",b,600,0755);RUN("blank at 255",execve("./li4",av,ev));b[255]='\n';put("li5",b,600,0755);RUN("nl at 255",execve("./li5",av,ev));b[255]='b';b[256]='\n';put("li6",b,600,0755);RUN("nl at 256",execve("./li6",av,ev));
 memcpy(b,"#!./me\0 echo\n",13);put("nul",b,13,0755);RUN("nul",execve("./nul",av,ev));}
 RUN("null argv",execve("./arg",0,ev)); {char*none[]={0};RUN("empty argv",execve("./arg",none,ev));}
 // ELF
 x=mk();elf("good",&x);
#define E(n,...) x=mk();__VA_ARGS__;elf(n,&x)
 E("class32",x.e.e_ident[4]=1);E("be",x.e.e_ident[5]=2);E("version0",x.e.e_version=0);E("machine386",x.e.e_machine=3);E("machine arm",x.e.e_machine=183);E("rel",x.e.e_type=ET_REL);E("core",x.e.e_type=ET_CORE);E("dyn",x.e.e_type=ET_DYN;x.p[0].p_vaddr=0;x.e.e_entry=offsetof(struct elf,code));
 E("phentsize",x.e.e_phentsize=55);E("phnum0",x.e.e_phnum=0);E("phnum many",x.e.e_phnum=2000);E("phoff far",x.e.e_phoff=1<<20);E("phoff neg",x.e.e_phoff=-1);E("no load",x.p[0].p_type=PT_NOTE);E("ehsize0",x.e.e_ehsize=0);
 E("filesz>memsz",x.p[0].p_memsz=100);E("memsz0",x.p[0].p_memsz=0);E("memsz 0 filesz 0",x.p[0].p_memsz=x.p[0].p_filesz=0);E("filesz0",x.p[0].p_filesz=0);E("huge memsz",x.p[0].p_memsz=1UL<<50);E("neg memsz",x.p[0].p_memsz=-1);E("huge vaddr",x.p[0].p_vaddr=1UL<<48);E("kernel vaddr",x.p[0].p_vaddr=-4096);E("misaligned",x.p[0].p_offset=1);E("offset past",x.p[0].p_offset=1<<20);E("filesz past eof",x.p[0].p_filesz=x.p[0].p_memsz=1<<20);E("noexec",x.p[0].p_flags=4);E("wx",x.p[0].p_flags=7);E("exec only",x.p[0].p_flags=1);E("no flags",x.p[0].p_flags=0);E("entry far",x.e.e_entry=1UL<<46);E("entry huge",x.e.e_entry=-1);E("entry0",x.e.e_entry=0);
#define L(t,fl,off,va,fs,ms) (Elf64_Phdr){t,fl,off,va,va,fs,ms,0x1000}
 E("two",x.e.e_phnum=2;x.p[1]=L(PT_LOAD,6,0,0x500000,sizeof x,0x2000));
 E("unordered",x.e.e_phnum=2;x.p[1]=x.p[0];x.p[0]=L(PT_LOAD,6,0,0x500000,sizeof x,0x2000));
 E("unordered far",x.e.e_phnum=2;x.p[1]=x.p[0];x.p[0]=L(PT_LOAD,6,0,0x7000000,sizeof x,0x2000));
 E("overlap same",x.e.e_phnum=2;x.p[1]=x.p[0]);
 E("overlap rw hides",x.e.e_phnum=2;x.p[1]=L(PT_LOAD,6,0,0x400000,sizeof x,sizeof x));
 E("overlap rw first",x.e.e_phnum=2;x.p[1]=x.p[0];x.p[0]=L(PT_LOAD,6,0,0x400000,sizeof x,sizeof x));
 E("overlap bss over text",x.e.e_phnum=2;x.p[1]=L(PT_LOAD,7,0,0x3ff000,0x100,0x2000));
 E("overlap big first",x.e.e_phnum=2;x.p[1]=x.p[0];x.p[0]=L(PT_LOAD,6,0,0x3ff000,0x100,0x4000));
 E("same page",x.e.e_phnum=2;x.p[1]=L(PT_LOAD,6,0x300,0x400300+sizeof x-0x300-8,8,8));
 E("dyn unordered",x.e.e_type=ET_DYN;x.e.e_phnum=2;x.e.e_entry=offsetof(struct elf,code);x.p[1]=L(PT_LOAD,5,0,0,sizeof x,sizeof x);x.p[0]=L(PT_LOAD,6,0,0x100000,sizeof x,0x2000));
 E("dyn overlap",x.e.e_type=ET_DYN;x.e.e_phnum=2;x.e.e_entry=offsetof(struct elf,code);x.p[0]=L(PT_LOAD,5,0,0,sizeof x,sizeof x);x.p[1]=x.p[0]);
 E("dyn wrap",x.e.e_type=ET_DYN;x.e.e_phnum=2;x.p[1]=L(PT_LOAD,6,0,-8192UL,100,100));
 E("align bad",x.p[0].p_align=3);E("align 0",x.p[0].p_align=0);E("align big dyn",x.e.e_type=ET_DYN;x.p[0].p_vaddr=0;x.e.e_entry=offsetof(struct elf,code);x.p[0].p_align=1<<24);
#define I(n,str,sz,...) x=mk();x.e.e_phnum=2;x.p[1]=x.p[0];strcpy(x.interp,str);x.p[0]=L(PT_INTERP,4,offsetof(struct elf,interp),0,sz,sz);__VA_ARGS__;elf(n,&x)
#define IS(n,str,...) I(n,str,strlen(str)+1,__VA_ARGS__)
 IS("interp none","/nonexistent");IS("interp text","./txt");IS("interp script","./scr");IS("interp noexec","./plain");IS("interp dir","/tmp");IS("interp empty file","./emp");IS("interp not dir","./txt/x");I("interp size 0","x",0);I("interp size 1","x",1);I("interp no nul","./good",6);I("interp long","./good",5000);I("interp empty","",1);I("interp empty2","",2);IS("interp good","./good");IS("interp after",  "./good", x.p[2]=x.p[0];x.p[0]=x.p[1];x.p[1]=x.p[2]);
 struct elf y;
#define J(n,...) y=mk();__VA_ARGS__;put("bad",&y,sizeof y,0755);IS(n,"./bad")
 J("interp class32",y.e.e_ident[4]=1);J("interp arm",y.e.e_machine=183);J("interp rel",y.e.e_type=ET_REL);J("interp no load",y.p[0].p_type=PT_NOTE);J("interp phnum0",y.e.e_phnum=0);J("interp huge",y.p[0].p_memsz=1UL<<50);J("interp kernel",y.p[0].p_vaddr=-4096);J("interp misaligned",y.p[0].p_offset=1);J("interp phoff far",y.e.e_phoff=1<<20);J("interp dyn",y.e.e_type=ET_DYN;y.p[0].p_vaddr=0;y.e.e_entry=offsetof(struct elf,code));J("interp dyn memsz0",y.e.e_type=ET_DYN;y.p[0].p_vaddr=0;y.p[0].p_memsz=0);J("interp filesz>memsz",y.p[0].p_memsz=10);J("interp trunc",y.e.e_phnum=8);
 put("trunc",&x,40,0755);RUN("truncated header",execve("./trunc",av,ev));put("trunc2",&x,64,0755);RUN("header only",execve("./trunc2",av,ev));put("bad",&y,40,0755);IS("interp trunc hdr","./bad");
 return 0;}
